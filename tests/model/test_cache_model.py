"""The page cache against a bytearray, over a store that fails, delays and loses replies."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radosmount.cache.file import CachedFile
from radosmount.errors import (
    Disconnected,
    NoSpace,
    QuotaExceeded,
    StoreError,
    TimedOut,
    VersionConflict,
)
from radosmount.store.memory import Call, MemoryStore
from radosmount.store.posix import NS_PER_S
from tests.support.schedules import run_seeded
from tests.support.stores import CacheBench, is_apply, key_of

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")

BUDGET_BYTES: Final = 1 << 20
FAILURES: Final[tuple[type[StoreError], ...]] = (TimedOut, Disconnected, NoSpace, QuotaExceeded)

Operation = tuple[object, ...]
data = st.binary(min_size=1, max_size=10)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 30), data),
        st.tuples(st.just("append"), data),
        st.tuples(st.just("truncate"), st.integers(0, 40)),
        st.tuples(st.just("mtime"), st.integers(1, 5)),
        st.tuples(st.just("xattr"), st.sampled_from([b"x", b"y", None])),
        st.tuples(st.just("flush")),  # begin one, and go on meanwhile
        st.tuples(st.just("settle")),  # wait until all that may go on has done so
        st.tuples(st.just("hold")),
        st.tuples(st.just("let go")),
        st.tuples(st.just("fail"), st.sampled_from(range(4)), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("sleep"), st.integers(1, 20)),
    ),
    max_size=25,
)
grow = st.tuples(st.just("grow"), data)
streams = st.lists(
    st.one_of(
        grow,
        grow,
        grow,
        st.tuples(st.just("write"), st.integers(0, 30), data),
        st.tuples(st.just("truncate"), st.integers(0, 40)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("settle")),
        st.tuples(st.just("hold")),
        st.tuples(st.just("let one go")),
        st.tuples(st.just("fail"), st.sampled_from(range(4)), st.integers(0, 3), st.booleans()),
    ),
    min_size=8,
    max_size=40,
)


@dataclass
class World:
    """One file over a store, and what it should be."""

    bench: CacheBench
    file: CachedFile
    model: bytearray
    nursery: trio.Nursery
    gate: trio.Event | None = None

    async def delay(self, call: Call) -> None:
        if is_apply(call) and self.gate is not None:
            await self.gate.wait()

    async def apply(self, operation: Operation) -> None:
        cache, file, model = self.bench.cache, self.file, self.model
        match operation:
            case ("write", int(offset), bytes(content)):
                await cache.write(file, offset, content)
                model.extend(bytes(max(offset + len(content) - len(model), 0)))
                model[offset : offset + len(content)] = content
            case ("grow", bytes(content)):
                await cache.write(file, len(model), content)
                model.extend(content)
            case ("append", bytes(content)):
                await cache.write(file, 0, content, is_append=True)
                model.extend(content)
            case ("truncate", int(size)):
                cache.truncate(file, size)
                del model[size:]
                model.extend(bytes(size - len(model)))
            case ("mtime", int(mtime_s)):
                cache.set_mtime(file, mtime_s * NS_PER_S)
            case ("xattr", value) if file.stages_xattrs:
                cache.stage_xattr(file, b"k", value)  # type: ignore[arg-type]
            case ("fail", int(index), int(skip_count), bool(is_applied)):
                failure = FAILURES[index]
                is_lost = failure.is_outcome_unknown and is_applied
                error = failure("injected")
                store = self.bench.store
                store.fail_next(error, is_apply, skip_count=skip_count, applied=is_lost)
            case _:
                await self.apply_to_time(operation)

    async def apply_to_time(self, operation: Operation) -> None:
        match operation:
            case ("flush",):
                self.nursery.start_soon(self.bench.cache.flush, self.file)
            case ("settle",):
                await trio.testing.wait_all_tasks_blocked()
            case ("hold",) if self.gate is None:
                self.gate = trio.Event()
            case ("let one go",) if self.gate is not None:
                self.gate.set()
                self.gate = trio.Event()
                await trio.testing.wait_all_tasks_blocked()
            case ("let go",) if self.gate is not None:
                self.gate.set()
                self.gate = None
            case ("sleep", int(seconds)) if self.gate is None:
                await trio.sleep(seconds)

    async def check(self) -> None:
        """Read-your-writes, and never a conflict: nobody else is there."""
        content = await self.bench.cache.read(self.file, 0, 1000)
        assert bytes(content) == bytes(self.model)
        assert self.file.size == len(self.model)
        assert not isinstance(self.file.error, VersionConflict)
        assert self.bench.cache.held_bytes == self.file.unstored_byte_count

    async def check_stored(self) -> None:
        await self.apply(("let go",))
        for _ in range(40):
            await self.bench.cache.flush(self.file)
            await trio.testing.wait_all_tasks_blocked()
            if self.file.is_clean:
                break
        await self.check()
        assert self.bench.stored() == bytes(self.model)
        assert self.file.base == self.bench.stat()
        assert self.bench.cache.held_bytes == 0
        assert self.bench.cache.dirty_files == ()


async def play(before: bytes | None, atomic_max: int, operations: list[Operation]) -> None:
    async with trio.open_nursery() as nursery:
        bench = CacheBench(
            nursery, size_bytes=BUDGET_BYTES, atomic_max_bytes=atomic_max, timeout_s=1e9
        )
        nursery.start_soon(bench.cache.run)
        file = bench.new_file() if before is None else bench.stored_file(before)
        world = World(bench, file, bytearray(before or b""), nursery)
        bench.store.delay = world.delay
        for operation in operations:
            await world.apply(operation)
            await world.check()
        await world.check_stored()
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def small_pieces() -> Iterator[None]:
    """A few bytes make several extents, and several operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radosmount.cache.extents.BLOCK_BYTES", 4)
        patch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 8)
        patch.setattr("radosmount.cache.plan.LONE_OPERATION_BYTES_MAX", 6)
        patch.setattr("radosmount.cache.plan.GUARD_OPERATION_BYTES_MAX", 2)
        patch.setattr("radosmount.cache.file.APPEND_BYTES_MAX", 6)
        patch.setattr("radosmount.cache.plan.STEP_COUNT_MAX", 3)
        patch.setattr("radosmount.cache.pagecache.STREAM_BYTES", 12)
        yield


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 1000),
    before=st.none() | st.binary(max_size=20),
    atomic_max=st.sampled_from([0, 10, 1000]),
    operations=operations,
)
@example(  # half stored, then whole with a lost reply: the object is shorter than it counts for
    seed=0,
    before=None,
    atomic_max=0,
    operations=[
        ("append", b"012"),
        ("append", b"345678"),
        ("fail", 0, 2, True),
        ("fail", 0, 1, False),
    ],
)
def test_cache_is_a_bytearray(
    seed: int, before: bytes | None, atomic_max: int, operations: list[Operation]
) -> None:
    """A file reads as what was written, always, and the store has exactly that in the end,
    whatever it delayed, refused or answered too late."""

    async def main() -> None:
        await play(before, atomic_max, operations)

    with small_pieces():
        run_seeded(seed, main)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1000),
    before=st.none() | st.binary(max_size=20),
    operations=streams,
)
@example(  # written on while the guard is under way, and the answer behind it is lost
    seed=0,
    before=None,
    operations=[
        ("hold",),
        ("grow", b"0123456789"),
        ("flush",),
        ("settle",),
        ("grow", b"0123456789"),
        ("fail", 0, 1, True),
        ("let one go",),
        ("grow", b"0123456789"),
    ],
)
def test_a_stream_is_a_bytearray(
    seed: int, before: bytes | None, operations: list[Operation]
) -> None:
    """The same of a file that is written on while its flushes are under way."""

    async def main() -> None:
        await play(before, 0, operations)

    with small_pieces():
        run_seeded(seed, main)


APPENDER_COUNT: Final = 3
appends = st.lists(
    st.tuples(
        st.integers(0, APPENDER_COUNT - 1),
        st.sampled_from(["append", "append", "flush", "lose", "refuse", "settle"]),
    ),
    max_size=30,
)


async def play_appends(steps: list[tuple[int, str]]) -> None:
    """Each record is written by one of several mounts, each with a cache of its own."""
    records: list[bytes] = []
    async with trio.open_nursery() as nursery:
        store = MemoryStore()
        store.put_now(key_of(b"f"), b"start;")
        benches = [CacheBench(nursery, store, timeout_s=1e9) for _ in range(APPENDER_COUNT)]
        files = [CachedFile(key_of(b"f"), bench.stat()) for bench in benches]
        for index, step in steps:
            bench, file = benches[index], files[index]
            file.writer_count = 1
            if step == "append":
                records.append(b"%d.%d;" % (index, len(records)))
                await bench.cache.write(file, 0, records[-1], is_append=True)
            elif step == "flush":
                nursery.start_soon(bench.cache.flush, file)
            elif step == "settle":
                await trio.testing.wait_all_tasks_blocked()
            else:
                store.fail_next(TimedOut("injected"), is_apply, applied=step == "lose")
        for _ in range(40):
            for bench, file in zip(benches, files, strict=True):
                await bench.cache.flush(file)
            await trio.testing.wait_all_tasks_blocked()
        assert all(file.is_clean for file in files)
        nursery.cancel_scope.cancel()
    stored = (store.read_now(key_of(b"f")) or b"").split(b";")
    assert sorted(stored) == sorted(record.rstrip(b";") for record in [b"start;", *records, b";"])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1000), steps=appends)
@example(seed=0, steps=[(0, "append"), (0, "lose"), (0, "flush"), (0, "settle"), (1, "append")])
@example(  # someone appended while the attempt was looked for
    seed=0,
    steps=[
        (0, "append"),
        (0, "lose"),
        (2, "append"),
        (2, "flush"),
        (0, "settle"),
        (2, "flush"),
    ],
)
def test_appends_interleave_whole(seed: int, steps: list[tuple[int, str]]) -> None:
    """Appends of several mounts are all there, whole, and none is doubled, though replies
    were lost."""

    async def main() -> None:
        await play_appends(steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radosmount.cache.file.APPEND_BYTES_MAX", 8)  # a record, or two
        run_seeded(seed, main)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.lists(st.integers(0, 6), max_size=25))
def test_nobody_is_overwritten(seed: int, steps: list[int]) -> None:
    """A flush is refused when someone else has changed the object since it was opened, however
    many replies were lost; the object has then exactly what the other wrote."""

    async def main() -> None:
        await play_conflicts(random.Random(seed), steps)

    run_seeded(seed, main)


async def play_conflicts(rng: random.Random, steps: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        bench = CacheBench(nursery, timeout_s=1e9)
        file = bench.stored_file(b"0123456789")
        is_foreign = False
        for step in steps:
            if step <= 2:
                await bench.cache.write(file, rng.randrange(12), rng.randbytes(3))
            elif step == 3:
                bench.store.fail_next(TimedOut("injected"), is_apply, applied=rng.random() < 0.5)
            elif step == 4:
                await bench.cache.flush(file)
            elif step == 5 and not file.is_clean:
                bench.store.put_now(
                    file.key, b"theirs" + rng.randbytes(4), mtime_s=rng.choice([1, 5])
                )
                is_foreign = True
                break
        theirs = bench.stored()
        for _ in range(30):
            await bench.cache.flush(file)
        if is_foreign:
            assert isinstance(file.error, VersionConflict)
            assert bench.stored() == theirs
        else:
            assert file.is_clean
        nursery.cancel_scope.cancel()


BUDGET_CASES = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 20_000), st.integers(1, 6000)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), writes=BUDGET_CASES, failures=st.integers(0, 5))
@example(seed=68, writes=[(0, 0, 4385), (1, 0, 6000), (1, 0, 6000), (1, 0, 2193)], failures=2)
def test_tiny_cache(seed: int, writes: list[tuple[int, int, int]], failures: int) -> None:
    """Eight writers through a cache of a few KiB stay within it, end, and lose nothing. Where files
    that fail hold half of it, a write may be refused with their error, whole."""

    async def main() -> None:
        await play_pressure(writes, failures)

    run_seeded(seed, main)


async def play_pressure(writes: list[tuple[int, int, int]], failures: int) -> None:
    async with trio.open_nursery() as nursery:
        bench = CacheBench(nursery, size_bytes=32 * 1024, atomic_max_bytes=4096, timeout_s=1e9)
        nursery.start_soon(bench.cache.run)
        models = [bytearray() for _ in range(8)]
        files = [bench.new_file(b"f%d" % index) for index in range(8)]
        for number in range(failures):
            bench.store.fail_next(TimedOut("injected"), is_apply, skip_count=number, applied=True)

        async def is_taken(file: CachedFile, offset: int, content: bytes) -> bool:
            try:
                await bench.cache.write(file, offset, content)
            except TimedOut:
                assert failures
                await trio.sleep(1)
                return False
            return True

        async def write_all(index: int) -> None:
            file, model = files[index], models[index]
            for number, (owner, offset, length) in enumerate(writes):
                if owner == index:
                    content = bytes([number % 255 + 1]) * length
                    while not await is_taken(file, offset, content):
                        pass
                    assert bench.cache.held_bytes <= 16 * 1024
                    model.extend(bytes(max(offset + length - len(model), 0)))
                    model[offset : offset + length] = content
            for _ in range(20):
                await bench.cache.flush(file)

        async with trio.open_nursery() as writers:
            for index in range(8):
                writers.start_soon(write_all, index)
        for index, file in enumerate(files):
            assert file.is_clean
            assert bench.stored(b"f%d" % index) == bytes(models[index])
        assert bench.cache.held_bytes == 0
        nursery.cancel_scope.cancel()
