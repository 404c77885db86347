"""Which operations make up a flush."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radosmount.cache.changes import Flight
from radosmount.cache.file import CachedFile
from radosmount.cache.plan import (
    GUARD_OPERATION_BYTES_MAX,
    LONE_OPERATION_BYTES_MAX,
    STEP_COUNT_MAX,
    Plan,
    plan_flush,
)
from radosmount.config import MIB, ConflictMode
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Limits,
    ObjectStat,
    RemoveXattr,
    SetXattr,
    Truncate,
    Write,
    WriteFull,
)
from radosmount.store.memory import MemoryStore
from tests.support.stores import key_of

LIMITS = Limits(128 * MIB, 90 * MIB)


def plan(flight: Flight, atomic_max: int = 16 * MIB, limits: Limits = LIMITS) -> Plan:
    return plan_flush(flight, atomic_max, limits, ConflictMode.FAIL)


def file_of(size: int | None) -> CachedFile:
    return CachedFile(key_of(b"f"), None if size is None else ObjectStat(size, 1000, 5))


def test_new_file_is_one_write_full() -> None:
    """A small new file is one operation, refused where someone made the object."""
    file = file_of(None)
    file.write(2, b"ab", 7)
    file.stage_xattr(b"k", b"v")
    planned = plan(file.start_write())
    steps = (WriteFull(b"\0\0ab"), SetXattr(b"k", b"v"))
    assert planned.first == Change(steps, Existence.ABSENT, 7)
    assert list(planned.rest) == []
    assert planned.begun == ObjectStat(4, 7, 0)


def test_rewritten_file_keeps_its_guard() -> None:
    """A file that was truncated to nothing is replaced whole, at the version it was opened at."""
    file = file_of(10)
    file.truncate(0, 7)
    file.write(0, b"new", 7)
    file.stage_xattr(b"k", None)
    planned = plan(file.start_write())
    assert planned.first == Change((WriteFull(b"new"), RemoveXattr(b"k")), AtVersion(5), 7)


def test_mtime_alone() -> None:
    """An mtime alone is an operation that does nothing else."""
    file = file_of(10)
    file.set_mtime(7)
    assert plan(file.start_write()).first == Change((Create(),), AtVersion(5), 7)


def test_shrink_then_grow() -> None:
    """A file that was cut and grown again is cut first: what comes back is zeros."""
    file = file_of(10)
    file.truncate(4, 7)
    file.truncate(20, 7)
    assert plan(file.start_write()).first.steps == (Truncate(4), Truncate(20))


def test_growing_to_the_very_limit() -> None:
    """The size that RADOS refuses to truncate to is reached by a write."""
    file = file_of(10)
    file.truncate(100, 7)
    planned = plan(file.start_write(), 0, Limits(100, 90))
    assert planned.first.steps == (Write(99, b"\0"),)


def test_large_flush_is_several_operations() -> None:
    """A large flush begins with a short guarded operation; the others, which wait for it, are
    larger and only ask that the object exists."""
    file = file_of(10)
    for number in range(9):
        file.write(number * MIB, b"x" * MIB, 7)
    planned = plan(file.start_write())
    rest = list(planned.rest)
    assert planned.first.guard == AtVersion(5)
    assert planned.first.steps == (Write(0, b"x" * GUARD_OPERATION_BYTES_MAX),)
    assert [len(change.steps) for change in rest] == [4, 4, 1]
    assert {change.guard for change in rest} == {Existence.PRESENT}
    assert planned.begun.size == planned.size_min == GUARD_OPERATION_BYTES_MAX


def test_flush_of_one_operation() -> None:
    """What is not worth a round trip of its own goes with the guard."""
    file = file_of(10)
    file.write(0, b"x" * LONE_OPERATION_BYTES_MAX, 7)
    planned = plan(file.start_write())
    assert planned.is_one
    assert planned.first.steps == (Write(0, b"x" * LONE_OPERATION_BYTES_MAX),)


def test_many_small_extents_share_operations() -> None:
    """Scattered writes go out in as few operations as the step limit allows."""
    file = file_of(10_000)
    for number in range(600):
        file.write(number * 10, b"x", 7)
    planned = plan(file.start_write())
    counts = [len(change.steps) for change in (planned.first, *planned.rest)]
    assert counts == [STEP_COUNT_MAX, STEP_COUNT_MAX, 600 - 2 * STEP_COUNT_MAX]


def test_last_writer_guards_existence_only() -> None:
    """With conflict=last-writer a flush asks for no version, nor that a new object is new."""
    file = file_of(10)
    file.write(0, b"x", 7)
    last = ConflictMode.LAST_WRITER
    assert plan_flush(file.start_write(), 0, LIMITS, last).first.guard is Existence.PRESENT
    file = file_of(None)
    file.write(0, b"x", 7)
    assert plan_flush(file.start_write(), 0, LIMITS, last).first.guard is Existence.ANY


changes = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 60), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("truncate"), st.integers(0, 80), st.none()),
    ),
    min_size=1,
    max_size=12,
)


@given(before=st.none() | st.binary(max_size=40), changes=changes, atomic_max=st.integers(0, 50))
def test_operations_make_the_file(
    before: bytes | None, changes: list[tuple[str, int, bytes | None]], atomic_max: int
) -> None:
    """The operations of a flush, the rest in any order, make the object what the file is; after
    the first it has the size that the plan says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radosmount.cache.extents.BLOCK_BYTES", 4)
        patch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 8)
        patch.setattr("radosmount.cache.plan.LONE_OPERATION_BYTES_MAX", 6)
        patch.setattr("radosmount.cache.plan.GUARD_OPERATION_BYTES_MAX", 2)
        check_operations(before, changes, atomic_max)


def check_operations(
    before: bytes | None, changes: list[tuple[str, int, bytes | None]], atomic_max: int
) -> None:
    store, key = MemoryStore(Limits(1000, 900)), key_of(b"f")
    if before is not None:
        store.put_now(key, before)
    file = CachedFile(key, store.stat_now(key))
    model = bytearray(before or b"")
    for _, offset, data in changes:
        if data is None:
            file.truncate(offset, 7)
            del model[offset:]
            model.extend(bytes(offset - len(model)))
        else:
            file.write(offset, data, 7)
            model.extend(bytes(max(offset + len(data) - len(model), 0)))
            model[offset : offset + len(data)] = data
    planned = plan(file.start_write(), atomic_max, Limits(1000, 900))
    store.change_now(key, planned.first)
    begun = store.stat_now(key)
    assert begun is not None
    assert (begun.size, begun.mtime_s) == (planned.begun.size, 7)
    for change in reversed(list(planned.rest)):
        store.change_now(key, change)
    assert store.read_now(key) == bytes(model)
