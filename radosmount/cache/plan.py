"""Which store operations make up one flush.

Pure. The first operation carries the guard and is acknowledged before the rest leave, in any
order: after it the object is ours, and what the rest writes does not overlap.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from radosmount.cache.changes import Flight
from radosmount.cache.extents import Buffer
from radosmount.config import MIB, ConflictMode
from radosmount.store import posix
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Guard,
    Limits,
    Notice,
    ObjectStat,
    RemoveXattr,
    SetXattr,
    Step,
    Truncate,
    Write,
    WriteFull,
)

# One operation carries many extents: five times as fast as one each, and atomic together.
STEP_COUNT_MAX: Final = 256
# Large enough to be fast, small enough that several are in flight and time out one by one.
OPERATION_BYTES_MAX: Final = 4 * MIB
# Up to so many bytes a flush is one operation.
LONE_OPERATION_BYTES_MAX: Final = MIB
# The first of several goes alone, since it has the guard, and an OSD that only has to answer it is
# idle meanwhile. A multiple of what BlueStore allocates at a time.
GUARD_OPERATION_BYTES_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Plan:
    """`begun`: the object after `first` alone, but for its version; it is at least `size_min`
    long. `content`: the whole, where `first` stores that.

    `rest` is copied from the flight only as each is asked for: a flush of 100 MiB does not
    hold them twice.
    """

    first: Change
    rest: Iterator[Change]
    begun: ObjectStat
    size_min: int
    content: bytes | None = None
    is_one: bool = True  # `first` is all


def plan_flush(
    flight: Flight,
    atomic_max_bytes: int,
    limits: Limits,
    conflict: ConflictMode,
    notice: Notice | None = None,
) -> Plan:
    """`notice`: goes with the operation where it is one."""
    guard = _guard(flight, conflict)
    mtime_s = flight.changes.mtime_s
    assert mtime_s is not None
    if flight.replaces_all and flight.size <= min(atomic_max_bytes, limits.operation_bytes_max):
        content = _whole_content(flight)
        making = () if content else (Create(),)  # else an empty object keeps its mtime
        steps: tuple[Step, ...] = (*making, WriteFull(content), *_xattr_steps(flight))
        begun = ObjectStat(flight.size, mtime_s, 0)
        return Plan(Change(steps, guard, mtime_s, notice), iter(()), begun, flight.size, content)
    leading = [*_resize_steps(flight, limits), *_xattr_steps(flight)]
    batches = _batches(flight, limits.operation_bytes_max)
    steps = (*leading, *_writes(next(batches, []))) or (Create(),)  # mtime alone
    end = _end_of(steps)
    second = next(batches, None)
    is_one = second is None
    following = itertools.chain(() if second is None else (second,), batches)
    return Plan(
        Change(steps, guard, mtime_s, notice if is_one else None),
        (Change(_writes(batch), Existence.PRESENT, mtime_s) for batch in following),
        ObjectStat(max(flight.kept_size, end), mtime_s, 0),
        max(flight.kept_size_min, end),
        is_one=is_one,
    )


def _guard(flight: Flight, conflict: ConflictMode) -> Guard:
    # Whoever appends overwrites nobody: it goes behind what others have appended.
    is_append = flight.is_append and not flight.is_new
    if conflict is ConflictMode.LAST_WRITER and not is_append:
        return Existence.ANY if flight.replaces_all else Existence.PRESENT
    return Existence.ABSENT if flight.is_new else AtVersion(flight.base.version)


def _whole_content(flight: Flight) -> bytes:
    """The extents, and zeros where there are none."""
    pieces: list[bytes | bytearray] = []
    end = 0
    for offset, buffer in flight.changes.extents:
        if offset > end:
            pieces.append(bytes(offset - end))
        pieces.append(buffer)
        end = offset + len(buffer)
    if flight.size > end:
        pieces.append(bytes(flight.size - end))
    return b"".join(pieces)


def _xattr_steps(flight: Flight) -> Iterator[Step]:
    if flight.changes.posix is not None:
        yield SetXattr(posix.XATTR, posix.encode(flight.changes.posix))
    for name, value in flight.changes.xattrs.items():
        yield RemoveXattr(name) if value is None else SetXattr(name, value)


def _resize_steps(flight: Flight, limits: Limits) -> Iterator[Step]:
    """Bring the object to its kept size, and grow it where its end is a hole."""
    if flight.is_new:
        yield WriteFull(b"")
    elif flight.kept_size < flight.base.size:
        yield Truncate(flight.kept_size)
    if flight.size > max(flight.kept_size, flight.changes.extents.end):
        if flight.size < limits.object_bytes_max:
            yield Truncate(flight.size)
        else:  # truncate refuses the limit itself (EFBIG), a write that ends there does not
            yield Write(flight.size - 1, b"\0")


def _writes(batch: list[tuple[int, Buffer]]) -> tuple[Step, ...]:
    return tuple(Write(offset, bytes(buffer)) for offset, buffer in batch)


def _batches(flight: Flight, operation_bytes_max: int) -> Iterator[list[tuple[int, Buffer]]]:
    """The extents of each operation, not copied."""
    extents: Iterable[tuple[int, Buffer]] = flight.changes.extents
    bytes_max = min(OPERATION_BYTES_MAX, operation_bytes_max)
    first_bytes_max = min(LONE_OPERATION_BYTES_MAX, bytes_max)
    if flight.is_append:  # others may append between two operations: one, if that can be
        first_bytes_max = operation_bytes_max
    if flight.changes.extents.byte_count > first_bytes_max:
        first_bytes_max = min(GUARD_OPERATION_BYTES_MAX, bytes_max)
        extents = _first_split(extents, first_bytes_max)
    batch: list[tuple[int, Buffer]] = []
    batch_bytes = 0
    batch_bytes_max = first_bytes_max
    for offset, buffer in extents:
        is_full = len(batch) == STEP_COUNT_MAX or batch_bytes + len(buffer) > batch_bytes_max
        if batch and is_full:
            yield batch
            batch, batch_bytes, batch_bytes_max = [], 0, bytes_max
        batch.append((offset, buffer))
        batch_bytes += len(buffer)
    if batch:
        yield batch


def _first_split(
    extents: Iterable[tuple[int, Buffer]], length: int
) -> Iterator[tuple[int, Buffer]]:
    """The same bytes, none beyond `length` in the first extent."""
    rest = iter(extents)
    offset, buffer = next(rest)
    view = memoryview(buffer)
    yield offset, view[:length]
    if len(view) > length:
        yield offset + length, view[length:]
    yield from rest


def gives_xattrs(steps: tuple[Step, ...]) -> bool:
    """Whether the object has others than that of `posix` afterwards, if it had none before."""
    for step in steps:  # noqa: SIM110 # a generator costs calls, at every flush
        if isinstance(step, SetXattr) and step.name != posix.XATTR:
            return True
    return False


def _end_of(steps: tuple[Step, ...]) -> int:
    ends = [0]
    for step in steps:
        if isinstance(step, Write):
            ends.append(step.offset + len(step.data))
        elif isinstance(step, Truncate):
            ends.append(step.size)
    return max(ends)
