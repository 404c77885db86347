"""Reads of an open file from what was fetched ahead: how often the store is asked, what for,
and that no answer is another than it would have been."""

import contextlib
import os
import random
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from radosmount.cache.file import CachedFile
from radosmount.cache.readahead import FETCH_COUNT_MAX, HandleAhead
from radosmount.config import KIB, MIB
from radosmount.errors import Disconnected, StaleFile, TimedOut
from radosmount.store.interface import ObjectKey, ObjectStat, ReadResult
from radosmount.store.memory import Call, MemoryStore
from radosmount.vfs.attributes import AttributeChange
from tests.support.mounts import MountBench, started
from tests.support.schedules import run_seeded
from tests.support.stores import is_call, key_of

STEP = 128 * KIB
CONTENT = random.Random(1).randbytes(4 * MIB)
OTHER = random.Random(2).randbytes(4 * MIB)
is_read = is_call("read")


class RecordingStore(MemoryStore):
    """Remembers what is read. Of those of more than a STEP replies wait for `reply`, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []
        self.reply: trio.Event | None = None
        self.refuses_long = False
        self.parallel_count = self.parallel_count_max = 0

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        self.reads.append((offset, length))
        self.parallel_count += 1
        self.parallel_count_max = max(self.parallel_count, self.parallel_count_max)
        try:
            result = await super().read(key, offset, length)
        finally:
            self.parallel_count -= 1
        if self.refuses_long and length > STEP:
            raise Disconnected("injected")
        if self.reply is not None and length > STEP:
            await self.reply.wait()
        return result

    @property
    def read_bytes(self) -> int:
        return sum(length for _, length in self.reads)


class Bench(MountBench):
    store: RecordingStore

    async def begin(self, name: bytes = b"f", content: bytes = CONTENT) -> int:
        """A handle on an object of another client, read three times: what follows is on its
        way."""
        self.store.put_now(key_of(name), content)
        handle = await self.open(name)
        for offset in range(0, 3 * STEP, STEP):
            assert await self.read(handle, offset, STEP) == content[offset : offset + STEP]
        return handle

    async def read_through(self, handle: int, start: int = 0, step: int = STEP) -> bytes:
        parts: list[bytes] = []
        while part := await self.read(handle, start, step):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def at_once(self, handle: int, offset: int, length: int) -> object:
        """A read that must not wait."""
        coroutine = self.fs.read(handle, offset, length)
        with pytest.raises(StopIteration) as end:
            coroutine.send(None)
        return end.value.value

    @property
    def held_bytes(self) -> int:
        return self.fs._ahead.held_bytes


@pytest.fixture
async def mount(nursery: trio.Nursery) -> AsyncIterator[Bench]:
    bench = Bench(nursery, RecordingStore())
    await bench.fs.start()
    yield bench
    await wait_all_tasks_blocked()
    for handle in list(bench.fs._files._handles):
        await bench.close(handle)
    await wait_all_tasks_blocked()
    assert bench.held_bytes == 0
    assert bench.fs._ahead._holders == {}


# --- What is asked of the store


async def test_a_hit_does_not_wait(mount: Bench) -> None:
    """What was fetched ahead is the answer at once, and handed out without a copy."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    part = mount.at_once(handle, 3 * STEP, STEP // 2)
    assert part == CONTENT[3 * STEP : 3 * STEP + STEP // 2]
    assert isinstance(part, memoryview)


async def test_a_whole_chunk_is_handed_out_as_it_came(mount: Bench) -> None:
    """A read of exactly one chunk gets its very bytes."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    assert (3 * STEP, STEP) in mount.store.reads
    part = mount.at_once(handle, 3 * STEP, STEP)
    assert isinstance(part, bytes)
    assert part == CONTENT[3 * STEP : 4 * STEP]


async def test_a_read_over_two_chunks(mount: Bench) -> None:
    """It is put together, without asking again."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    read_count = len(mount.store.reads)
    assert mount.at_once(handle, 3 * STEP, 2 * STEP) == CONTENT[3 * STEP : 5 * STEP]
    await wait_all_tasks_blocked()
    assert all(offset >= 5 * STEP for offset, _ in mount.store.reads[read_count:])


async def test_every_byte_is_asked_for_once(mount: Bench) -> None:
    """A file that is read from one end to the other costs as many bytes as it has, in fewer
    and larger reads, and nothing behind its end."""
    handle = await mount.begin(content=CONTENT[:-7])
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP : -7]
    assert mount.store.read_bytes == len(CONTENT) - 7
    assert max(offset + length for offset, length in mount.store.reads) == len(CONTENT) - 7
    assert len(mount.store.reads) < len(CONTENT) // STEP // 2


async def test_a_reader_waits_for_what_is_under_way(mount: Bench) -> None:
    """It is not asked for a second time."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    parts: list[bytes] = []

    async def read() -> None:
        parts.append(await mount.read(handle, 4 * STEP, STEP))
        parts.append(await mount.read(handle, 5 * STEP, STEP))
        parts.append(await mount.read(handle, 6 * STEP, STEP))

    async with trio.open_nursery() as readers:
        with mount.store.paused():
            await mount.read(handle, 3 * STEP, STEP)  # from what is here; fetches on
            readers.start_soon(read)
            await wait_all_tasks_blocked()
    assert b"".join(parts) == CONTENT[4 * STEP : 7 * STEP]
    spans = [span for span in mount.store.reads if span[0] <= 6 * STEP < sum(span)]
    assert len(spans) == 1


async def test_a_small_file_costs_no_more(mount: Bench) -> None:
    """One that needs one or two reads is not read ahead."""
    mount.store.put_now(key_of(b"f"), CONTENT[: 2 * STEP])
    handle = await mount.open(b"f")
    assert await mount.read_through(handle) == CONTENT[: 2 * STEP]
    assert mount.store.reads == [(0, STEP), (STEP, STEP)]


async def test_random_reads_are_never_amplified(mount: Bench) -> None:
    """Reads at random, and of two neighbours at random places, cost what they asked for."""
    mount.store.put_now(key_of(b"f"), CONTENT)
    handle = await mount.open(b"f")
    dice = random.Random(3)
    asked_bytes = 0
    for _ in range(300):
        offset = dice.randrange(0, 500) * 8 * KIB
        for _ in range(dice.choice([1, 2])):
            part = await mount.read(handle, offset, 4 * KIB)
            assert part == CONTENT[offset : offset + 4 * KIB]
            asked_bytes += 4 * KIB
            offset += 4 * KIB
    await wait_all_tasks_blocked()
    assert mount.store.read_bytes == asked_bytes


async def test_runs_at_random_places_cost_at_most_twice(mount: Bench) -> None:
    """What is fetched ahead in vain is never more than what was read."""
    mount.store.put_now(key_of(b"f"), CONTENT)
    handle = await mount.open(b"f")
    asked_bytes = 0
    for start in (2 * MIB, 0, 3 * MIB, MIB, 2 * MIB):
        for offset in range(start, start + 5 * STEP, STEP):
            asked_bytes += len(await mount.read(handle, offset, STEP))
            await wait_all_tasks_blocked()
    assert mount.store.read_bytes <= 2 * asked_bytes


async def test_a_seek_forgets(mount: Bench) -> None:
    """What was fetched for another place is held no more."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    assert mount.held_bytes
    await mount.read(handle, 3 * MIB, STEP)
    assert mount.held_bytes == 0


async def test_what_was_read_is_dropped(mount: Bench) -> None:
    """A sequential reader does not come back."""
    handle = await mount.begin()
    await mount.read_through(handle, 3 * STEP)
    assert mount.held_bytes == 0


async def test_two_handles_have_each_their_own(mount: Bench) -> None:
    first, second = await mount.begin(), await mount.open(b"f")
    for offset in range(2 * MIB, 3 * MIB, STEP):
        await mount.read(second, offset, STEP)
    await wait_all_tasks_blocked()
    assert mount.at_once(first, 3 * STEP, STEP) == CONTENT[3 * STEP : 4 * STEP]
    assert mount.at_once(second, 3 * MIB, STEP) == CONTENT[3 * MIB : 3 * MIB + STEP]


async def test_a_kernel_that_reads_ahead_is_left_alone(mount: Bench) -> None:
    """Several large reads at once say that nothing is to be gained."""
    mount.store.put_now(key_of(b"f"), CONTENT)
    handle = await mount.open(b"f")
    async with trio.open_nursery() as readers:
        with mount.store.paused():
            for offset in range(0, 3 * MIB, MIB):
                readers.start_soon(mount.read, handle, offset, MIB)
                await wait_all_tasks_blocked()
    await mount.read(handle, 3 * MIB, STEP)
    await wait_all_tasks_blocked()
    assert mount.store.reads == [(0, MIB), (MIB, MIB), (2 * MIB, MIB), (3 * MIB, STEP)]
    for offset in range(0, 3 * STEP, STEP):
        await mount.read(handle, offset, STEP)
    await wait_all_tasks_blocked()
    assert mount.at_once(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 4 * STEP]


async def test_a_file_that_is_written_is_not_read_ahead(mount: Bench) -> None:
    """What is unstored would have to be laid over each chunk."""
    handle = await mount.begin()
    await mount.fs.write(handle, 0, b"x")
    await wait_all_tasks_blocked()
    mount.store.reads.clear()
    await mount.read_through(handle, 3 * STEP)
    assert mount.store.reads == [(at, STEP) for at in range(3 * STEP, len(CONTENT), STEP)]


async def test_few_fetches_at_once(mount: Bench) -> None:
    """However many handles read, fetches leave room for what else the pool is asked."""
    handles = [await mount.begin(b"f%d" % index) for index in range(20)]

    async def read(handle: int) -> None:
        await mount.read_through(handle, 3 * STEP)

    mount.store.parallel_count_max = 0
    async with trio.open_nursery() as readers:
        for handle in handles:
            readers.start_soon(read, handle)
    assert mount.store.parallel_count_max <= 20 + FETCH_COUNT_MAX


# --- Room


async def test_the_budget_is_kept(nursery: trio.Nursery) -> None:
    """However many read, an eighth of cache_size is not exceeded; who finds no room asks the
    store."""
    bench = Bench(nursery, RecordingStore(), size_bytes=8 * MIB)
    await bench.fs.start()
    peak_bytes = 0

    async def read(name: bytes) -> None:
        nonlocal peak_bytes
        handle = await bench.open(name)
        for offset in range(0, len(CONTENT), STEP):
            part = await bench.read(handle, offset, STEP)
            assert part == CONTENT[offset : offset + STEP]
            peak_bytes = max(peak_bytes, bench.held_bytes)
        await bench.close(handle)

    names = [b"f%d" % index for index in range(6)]
    async with trio.open_nursery() as readers:
        for name in names:
            bench.store.put_now(key_of(name), CONTENT)
            readers.start_soon(read, name)
    assert 0 < peak_bytes <= MIB
    assert bench.held_bytes == 0


async def test_idle_handles_make_room(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Who has not read for some time loses what was fetched, if others need the room; not
    before."""
    bench = Bench(nursery, RecordingStore(), size_bytes=2 * MIB)  # 256 KiB ahead
    await bench.fs.start()
    idle = await bench.begin(b"idle")
    await wait_all_tasks_blocked()
    held_bytes = bench.held_bytes
    assert held_bytes
    busy = await bench.begin(b"busy", OTHER)
    await wait_all_tasks_blocked()
    chunks = list(bench.fs._files[idle].ahead.chunks)
    assert chunks
    await trio.sleep(10)
    assert await bench.read_through(busy, 3 * STEP) == OTHER[3 * STEP :]
    assert not bench.fs._files[idle].ahead.chunks
    assert await bench.read_through(idle, 3 * STEP) == CONTENT[3 * STEP :]


async def test_handles_share_the_room(nursery: trio.Nursery) -> None:
    """One that came first does not keep all of it."""
    bench = Bench(nursery, RecordingStore(), size_bytes=8 * MIB)  # 1 MiB ahead
    await bench.fs.start()
    handles = [await bench.begin(b"f%d" % index) for index in range(4)]
    for offset in range(3 * STEP, 2 * MIB, STEP):
        for handle in handles:
            await bench.read(handle, offset, STEP)
    await wait_all_tasks_blocked()
    held = [sum(c.byte_count for c in bench.fs._files[h].ahead.chunks) for h in handles]
    assert max(held) <= 2 * STEP
    assert held.count(0) <= 1


async def test_no_room_at_all(nursery: trio.Nursery) -> None:
    """A cache that is too small for anything still reads."""
    bench = Bench(nursery, RecordingStore(), size_bytes=4)
    await bench.fs.start()
    handle = await bench.begin()
    assert await bench.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]
    assert bench.held_bytes == 0


async def test_release_while_chunks_are_under_way(mount: Bench) -> None:
    """The room is given back when they arrive."""
    with mount.store.paused():
        handle = await mount_begin_paused(mount)
        await mount.fs.release(handle)
        assert mount.held_bytes > 0
    await wait_all_tasks_blocked()
    assert mount.held_bytes == 0


async def mount_begin_paused(mount: Bench) -> int:
    """A handle whose next chunks do not come: the pause begins with their fetch."""
    assert mount.store._resumed is not None
    resumed, mount.store._resumed = mount.store._resumed, None
    mount.store.put_now(key_of(b"f"), CONTENT)
    handle = await mount.open(b"f")
    await mount.read(handle, 0, STEP)
    await mount.read(handle, STEP, STEP)
    mount.store._resumed = resumed
    with trio.move_on_after(0) as scope:
        scope.cancel()
        await mount.read(handle, 2 * STEP, STEP)
    await wait_all_tasks_blocked()
    return handle


# --- Changes meanwhile


async def test_change_behind_the_mount(mount: Bench) -> None:
    """The next open sees what another client wrote, also through a handle that had fetched the
    old content."""
    old = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    new = await mount.open(b"f")
    assert await mount.read_through(new) == OTHER
    assert await mount.read_through(old, 3 * STEP) == OTHER[3 * STEP :]


async def test_change_while_chunks_are_fetched(mount: Bench) -> None:
    """A chunk of another version is not used, and the file is asked about anew."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    for offset in range(3 * STEP, len(CONTENT), STEP):
        part = await mount.read(handle, offset, STEP)
        assert part in (CONTENT[offset : offset + STEP], OTHER[offset : offset + STEP])
    assert mount.invalidated
    assert await mount.read(handle, 3 * MIB, STEP) == OTHER[3 * MIB : 3 * MIB + STEP]


async def test_never_backwards(mount: Bench) -> None:
    """Once a read has seen the new content none sees the old one."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    far = await mount.read(handle, 3 * MIB, STEP)
    assert far == OTHER[3 * MIB : 3 * MIB + STEP]
    assert await mount.read(handle, 3 * STEP, STEP) == OTHER[3 * STEP : 4 * STEP]


async def test_a_suspect_file_is_not_read_from_chunks(mount: Bench) -> None:
    """Until it is known what the object is now, the store is asked."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    mount.fs._files[handle].file.is_suspect = True
    assert await mount.read(handle, 3 * STEP, STEP) == OTHER[3 * STEP : 4 * STEP]


async def test_a_fetch_finds_another_version(mount: Bench) -> None:
    """The file is suspect from then on, before anyone has read so far."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    mount.at_once(handle, 3 * STEP, STEP)
    await wait_all_tasks_blocked()
    assert mount.fs._files[handle].file.is_suspect


async def test_a_fetch_finds_what_we_stored(mount: Bench) -> None:
    """A version that is other than when the fetch began, but ours, is not suspect."""
    gate = trio.Event()

    async def delay(call: Call) -> None:
        if is_read(call):
            await gate.wait()

    with mount.store.paused():
        handle = await mount_begin_paused(mount)
        mount.store.delay = delay
    await mount.fs.write(handle, 0, b"new")
    await mount.fs.sync(handle)
    gate.set()
    await wait_all_tasks_blocked()
    assert not mount.fs._files[handle].file.is_suspect


async def test_an_xattr_changes_the_version(mount: Bench) -> None:
    """What was fetched is of another version then, and fetched anew."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    await mount.fs.set_xattr((await mount.stat(b"f")).ino, b"user.k", b"v")
    assert await mount.read(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 4 * STEP]
    await wait_all_tasks_blocked()
    assert mount.at_once(handle, 4 * STEP, STEP) == CONTENT[4 * STEP : 5 * STEP]


async def test_a_waiting_reader_and_a_write(mount: Bench) -> None:
    """Who waits for a chunk while it is written over gets the new bytes: the kernel may keep
    them."""
    parts: list[bytes] = []

    async def read() -> None:
        parts.append(await mount.read(handle, 3 * STEP, STEP))

    async with trio.open_nursery() as readers:
        with mount.store.paused():
            handle = await mount_begin_paused(mount)
            readers.start_soon(read)
            await wait_all_tasks_blocked()
            await mount.fs.write(handle, 3 * STEP, b"new")
    assert parts == [b"new" + CONTENT[3 * STEP + 3 : 4 * STEP]]


async def test_a_waiting_reader_and_another_version(mount: Bench) -> None:
    """Who waits for a chunk gets none that is older than what has been heard meanwhile."""
    parts: list[bytes] = []
    handle = await mount.begin()
    await wait_all_tasks_blocked()

    async def read() -> None:
        parts.append(await mount.read(handle, 6 * STEP, 8))

    mount.store.reply = trio.Event()
    await mount.read(handle, 3 * STEP, 2 * STEP)  # begins a fetch of what follows
    async with trio.open_nursery() as readers:
        readers.start_soon(read)
        await wait_all_tasks_blocked()
        mount.store.put_now(key_of(b"f"), OTHER)
        await mount.open(b"f")
        assert await mount.read(handle, 6 * STEP + 8, 8) == OTHER[6 * STEP + 8 : 6 * STEP + 16]
        assert not parts
        mount.store.reply.set()
    assert parts == [OTHER[6 * STEP : 6 * STEP + 8]]


def test_of_which_file_chunks_are() -> None:
    """Versions are compared within one object only: those of two may be equal."""
    file = CachedFile(key_of(b"f"), ObjectStat(size=1, mtime_s=1, version=7))
    ahead = HandleAhead()
    assert not ahead.is_of(file)
    ahead.key, ahead.version = file.key, 7
    assert ahead.is_of(file)
    file.key = key_of(b"g")
    assert not ahead.is_of(file)


async def test_write_to_an_unlinked_file(mount: Bench) -> None:
    """It is read from the local copy, not from what was fetched before."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    await mount.unlink(b"f")
    await mount.fs.write(handle, 3 * STEP, b"new")
    assert await mount.read(handle, 3 * STEP, 5) == b"new" + CONTENT[3 * STEP + 3 : 3 * STEP + 5]


async def test_write_beside(mount: Bench) -> None:
    """A read sees what was written through another handle, before and after its flush."""
    handle, writer = await mount.begin(), await mount.open(b"f")
    await wait_all_tasks_blocked()
    await mount.fs.write(writer, 3 * STEP + 5, b"new")
    expected = CONTENT[3 * STEP : 3 * STEP + 5] + b"new"
    assert await mount.read(handle, 3 * STEP, 8) == expected
    await mount.fs.sync(writer)
    assert await mount.read(handle, 3 * STEP, 8) == expected
    assert await mount.read(handle, 3 * STEP, STEP) == expected + CONTENT[3 * STEP + 8 : 4 * STEP]


async def test_write_and_flush_while_chunks_are_under_way(mount: Bench) -> None:
    """A chunk that was read before a write's flush is not used after it."""
    with mount.store.paused():
        handle = await mount_begin_paused(mount)
        await mount.fs.write(handle, 3 * STEP, b"new")
    await mount.fs.sync(handle)
    await wait_all_tasks_blocked()
    assert await mount.read(handle, 3 * STEP, 5) == b"new" + CONTENT[3 * STEP + 3 : 3 * STEP + 5]


async def test_truncate_meanwhile(mount: Bench) -> None:
    """Bytes that were cut off are not read."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    ino = (await mount.stat(b"f")).ino
    change = AttributeChange(size=3 * STEP + 1)
    await mount.fs.set_attributes(ino, change, has_handle=True)
    assert await mount.read(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 3 * STEP + 1]
    await mount.fs.sync(handle)
    assert await mount.read(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 3 * STEP + 1]


@pytest.mark.parametrize("when", ["before", "under way"])
async def test_unlink_meanwhile(mount: Bench, when: str) -> None:
    """An unlinked file is read on, from its local copy."""
    handle = await mount.begin()
    if when == "before":
        await wait_all_tasks_blocked()
    await mount.unlink(b"f")
    mount.store.put_now(key_of(b"f"), OTHER)
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]


@pytest.mark.parametrize("when", ["before", "under way"])
async def test_rename_meanwhile(mount: Bench, when: str) -> None:
    """A renamed file is read on under its new name."""
    handle = await mount.begin()
    if when == "before":
        await wait_all_tasks_blocked()
    await mount.rename(b"f", b"g")
    mount.store.put_now(key_of(b"f"), OTHER)
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]


async def test_a_waiting_reader_and_a_rename(mount: Bench) -> None:
    """Who waits for a chunk while the file is renamed gets its bytes all the same."""
    parts: list[bytes] = []

    async def read() -> None:
        parts.append(await mount.read(handle, 3 * STEP, STEP))

    async with trio.open_nursery() as readers:
        with mount.store.paused():
            handle = await mount_begin_paused(mount)
            readers.start_soon(read)
            await wait_all_tasks_blocked()
            readers.start_soon(mount.rename, b"f", b"g")
    assert parts == [CONTENT[3 * STEP : 4 * STEP]]
    assert await mount.read_through(handle, 4 * STEP) == CONTENT[4 * STEP :]


async def test_removed_elsewhere(mount: Bench) -> None:
    """Behind what was fetched, the object is gone: ESTALE, as without."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(StaleFile):
        await mount.read_through(handle, 3 * STEP)


# --- Failures


async def test_a_fetch_that_fails(mount: Bench) -> None:
    """It is nobody's error: the read asks itself, and later ones are fetched ahead again."""
    mount.store.fail_next(Disconnected("injected"), is_read, skip_count=3)
    handle = await mount.begin()
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]
    assert len(mount.store.reads) < len(CONTENT) // STEP // 2


async def test_failing_fetches_are_not_hammered(mount: Bench) -> None:
    """After one that failed the reads must be sequential again for some time."""
    mount.store.refuses_long = True
    handle = await mount.begin()
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]
    refused = [span for span in mount.store.reads if span[1] > STEP]
    assert 0 < len(refused) <= len(CONTENT) // STEP // 2


async def test_fetch_and_read_fail(mount: Bench) -> None:
    """The read has an error of its own then, and the next one works."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    for _ in range(10):
        mount.store.fail_next(Disconnected("injected"), is_read)
    with pytest.raises(Disconnected):
        await mount.read_through(handle, 3 * STEP)
    mount.store._failures.clear()
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]


async def test_no_time_out_is_waited_for_twice(mount: Bench) -> None:
    """Who has waited for a fetch until it timed out has waited long enough."""
    async with trio.open_nursery() as readers:
        with mount.store.paused():
            handle = await mount_begin_paused(mount)
            for _ in range(10):
                mount.store.fail_next(TimedOut("injected"), is_read)

            async def read() -> None:
                with pytest.raises(TimedOut):
                    await mount.read(handle, 3 * STEP, STEP)

            readers.start_soon(read)
            await wait_all_tasks_blocked()
    assert [span for span in mount.store.reads if span[0] == 3 * STEP] == [(3 * STEP, STEP)]
    mount.store._failures.clear()
    assert await mount.read(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 4 * STEP]


async def test_the_end_of_the_mount(nursery: trio.Nursery) -> None:
    """Fetches that are under way when all ends are given up."""
    async with trio.open_nursery() as background:
        bench = Bench(background, RecordingStore())
        await bench.fs.start()
        handle = await bench.begin()
        background.cancel_scope.cancel()
    assert bench.held_bytes == 0
    assert bench.fs._files[handle].ahead.chunks == []


# --- Any schedule


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 12)),
            st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 12)),
            st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 12)),
            st.tuples(st.just("seek"), st.integers(0, 1), st.integers(0, 1000)),
            st.tuples(st.just("change"), st.integers(1, 9), st.integers(500, 1000)),
            st.tuples(st.just("open"), st.integers(0, 1), st.just(0)),
            st.tuples(st.just("fail"), st.integers(0, 3), st.just(0)),
        ),
        max_size=80,
    ),
)
def test_no_read_mixes_versions(seed: int, steps: list[tuple[str, int, int]]) -> None:
    """Another client replaces the content at any time: each read is of one version, no older
    than its open, nor than one that was read before."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            bench = await started(nursery, size_bytes=8 * KIB)
            await play_changes(bench, random.Random(seed), steps)
            nursery.cancel_scope.cancel()

    run_seeded(seed, main)


async def play_changes(
    mount: MountBench, dice: random.Random, steps: list[tuple[str, int, int]]
) -> None:
    async def delay(_: object) -> None:
        await trio.sleep(dice.random() / 10)

    mount.store.delay = delay
    versions = [bytes([0]) * 800]
    mount.store.put_now(key_of(b"f"), versions[0])
    handles = [await mount.open(b"f", os.O_RDONLY) for _ in range(2)]
    offsets, oldest = [0, 0], [0, 0]
    for kind, index, number in steps:
        if kind == "read":
            part = b""
            with contextlib.suppress(Disconnected):
                part = await mount.read(handles[index], offsets[index], number)
            offsets[index] += len(part)
            assert len(set(part)) <= 1
            if part:
                assert part[0] >= oldest[index]
                oldest[index] = part[0]
        elif kind == "seek":
            offsets[index] = number
        elif kind == "change":
            versions.append(bytes([len(versions)]) * number)
            mount.store.put_now(key_of(b"f"), versions[-1])
        elif kind == "open":
            await mount.close(handles[index])
            handles[index] = await mount.open(b"f", os.O_RDONLY)
            offsets[index], oldest[index] = 0, len(versions) - 1
        else:
            mount.store.fail_next(Disconnected("injected"), is_read, skip_count=index)
        assert mount.fs._ahead.held_bytes <= KIB
