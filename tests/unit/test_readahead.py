"""Reads of an open file from what was fetched ahead: what the store is asked, within which
bounds, and what comes of failures."""

import random
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from radosmount.cache.readahead import FETCH_COUNT_MAX
from radosmount.config import KIB, MIB
from radosmount.errors import Disconnected, TimedOut
from tests.support.readers import (
    CONTENT,
    OTHER,
    STEP,
    ReadBench,
    RecordingStore,
    is_read,
    read_bench,
)
from tests.support.stores import key_of


@pytest.fixture
async def mount(nursery: trio.Nursery) -> AsyncIterator[ReadBench]:
    async with read_bench(nursery) as bench:
        yield bench


# --- What is asked of the store


async def test_a_hit_does_not_wait(mount: ReadBench) -> None:
    """What was fetched ahead is the answer at once, and handed out without a copy."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    part = mount.at_once(handle, 3 * STEP, STEP // 2)
    assert part == CONTENT[3 * STEP : 3 * STEP + STEP // 2]
    assert isinstance(part, memoryview)


async def test_a_whole_chunk_is_handed_out_as_it_came(mount: ReadBench) -> None:
    """A read of exactly one chunk gets its very bytes."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    assert (3 * STEP, STEP) in mount.store.reads
    part = mount.at_once(handle, 3 * STEP, STEP)
    assert isinstance(part, bytes)
    assert part == CONTENT[3 * STEP : 4 * STEP]


async def test_a_read_over_two_chunks(mount: ReadBench) -> None:
    """It is put together, without asking again."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    read_count = len(mount.store.reads)
    assert mount.at_once(handle, 3 * STEP, 2 * STEP) == CONTENT[3 * STEP : 5 * STEP]
    await wait_all_tasks_blocked()
    assert all(offset >= 5 * STEP for offset, _ in mount.store.reads[read_count:])


async def test_every_byte_is_asked_for_once(mount: ReadBench) -> None:
    """A file that is read from one end to the other costs as many bytes as it has, in fewer
    and larger reads, and nothing behind its end."""
    handle = await mount.begin(content=CONTENT[:-7])
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP : -7]
    assert mount.store.read_bytes == len(CONTENT) - 7
    assert max(offset + length for offset, length in mount.store.reads) == len(CONTENT) - 7
    assert len(mount.store.reads) < len(CONTENT) // STEP // 2


async def test_a_reader_waits_for_what_is_under_way(mount: ReadBench) -> None:
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


async def test_a_small_file_costs_no_more(mount: ReadBench) -> None:
    """One that needs one or two reads is not read ahead."""
    mount.store.put_now(key_of(b"f"), CONTENT[: 2 * STEP])
    handle = await mount.open(b"f")
    assert await mount.read_through(handle) == CONTENT[: 2 * STEP]
    assert mount.store.reads == [(0, STEP), (STEP, STEP)]


async def test_random_reads_are_never_amplified(mount: ReadBench) -> None:
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


async def test_runs_at_random_places_cost_at_most_twice(mount: ReadBench) -> None:
    """What is fetched ahead in vain is never more than what was read."""
    mount.store.put_now(key_of(b"f"), CONTENT)
    handle = await mount.open(b"f")
    asked_bytes = 0
    for start in (2 * MIB, 0, 3 * MIB, MIB, 2 * MIB):
        for offset in range(start, start + 5 * STEP, STEP):
            asked_bytes += len(await mount.read(handle, offset, STEP))
            await wait_all_tasks_blocked()
    assert mount.store.read_bytes <= 2 * asked_bytes


async def test_a_seek_forgets(mount: ReadBench) -> None:
    """What was fetched for another place is held no more."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    assert mount.held_bytes
    await mount.read(handle, 3 * MIB, STEP)
    assert mount.held_bytes == 0


async def test_what_was_read_is_dropped(mount: ReadBench) -> None:
    """A sequential reader does not come back."""
    handle = await mount.begin()
    await mount.read_through(handle, 3 * STEP)
    assert mount.held_bytes == 0


async def test_two_handles_have_each_their_own(mount: ReadBench) -> None:
    first, second = await mount.begin(), await mount.open(b"f")
    for offset in range(2 * MIB, 3 * MIB, STEP):
        await mount.read(second, offset, STEP)
    await wait_all_tasks_blocked()
    assert mount.at_once(first, 3 * STEP, STEP) == CONTENT[3 * STEP : 4 * STEP]
    assert mount.at_once(second, 3 * MIB, STEP) == CONTENT[3 * MIB : 3 * MIB + STEP]


async def test_a_kernel_that_reads_ahead_is_left_alone(mount: ReadBench) -> None:
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


async def test_a_file_that_is_written_is_not_read_ahead(mount: ReadBench) -> None:
    """What is unstored would have to be laid over each chunk."""
    handle = await mount.begin()
    await mount.fs.write(handle, 0, b"x")
    await wait_all_tasks_blocked()
    mount.store.reads.clear()
    await mount.read_through(handle, 3 * STEP)
    assert mount.store.reads == [(at, STEP) for at in range(3 * STEP, len(CONTENT), STEP)]


async def test_few_fetches_at_once(mount: ReadBench) -> None:
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
    bench = ReadBench(nursery, RecordingStore(), size_bytes=8 * MIB)
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
    bench = ReadBench(nursery, RecordingStore(), size_bytes=2 * MIB)  # 256 KiB ahead
    await bench.fs.start()
    idle = await bench.begin(b"idle")
    await wait_all_tasks_blocked()
    held_bytes = bench.held_bytes
    assert held_bytes
    busy = await bench.begin(b"busy", OTHER)
    await wait_all_tasks_blocked()
    chunks = list(bench.chunks(idle))
    assert chunks
    await trio.sleep(10)
    assert await bench.read_through(busy, 3 * STEP) == OTHER[3 * STEP :]
    assert not bench.chunks(idle)
    assert await bench.read_through(idle, 3 * STEP) == CONTENT[3 * STEP :]


async def test_handles_share_the_room(nursery: trio.Nursery) -> None:
    """One that came first does not keep all of it."""
    bench = ReadBench(nursery, RecordingStore(), size_bytes=8 * MIB)  # 1 MiB ahead
    await bench.fs.start()
    handles = [await bench.begin(b"f%d" % index) for index in range(4)]
    for offset in range(3 * STEP, 2 * MIB, STEP):
        for handle in handles:
            await bench.read(handle, offset, STEP)
    await wait_all_tasks_blocked()
    held = [sum(c.byte_count for c in bench.chunks(h)) for h in handles]
    assert max(held) <= 2 * STEP
    assert held.count(0) <= 1


async def test_no_room_at_all(nursery: trio.Nursery) -> None:
    """A cache that is too small for anything still reads."""
    bench = ReadBench(nursery, RecordingStore(), size_bytes=4)
    await bench.fs.start()
    handle = await bench.begin()
    assert await bench.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]
    assert bench.held_bytes == 0


async def test_release_while_chunks_are_under_way(mount: ReadBench) -> None:
    """The room is given back when they arrive."""
    with mount.store.paused():
        handle = await mount.begin_stalled()
        await mount.fs.release(handle)
        assert mount.held_bytes > 0
    await wait_all_tasks_blocked()
    assert mount.held_bytes == 0


# --- Failures


async def test_a_fetch_that_fails(mount: ReadBench) -> None:
    """It is nobody's error: the read asks itself, and later ones are fetched ahead again."""
    mount.store.fail_next(Disconnected("injected"), is_read, skip_count=3)
    handle = await mount.begin()
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]
    assert len(mount.store.reads) < len(CONTENT) // STEP // 2


async def test_failing_fetches_are_not_hammered(mount: ReadBench) -> None:
    """After one that failed the reads must be sequential again for some time."""
    mount.store.refuses_long = True
    handle = await mount.begin()
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]
    refused = [span for span in mount.store.reads if span[1] > STEP]
    assert 0 < len(refused) <= len(CONTENT) // STEP // 2


async def test_fetch_and_read_fail(mount: ReadBench) -> None:
    """The read has an error of its own then, and the next one works."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    for _ in range(10):
        mount.store.fail_next(Disconnected("injected"), is_read)
    with pytest.raises(Disconnected):
        await mount.read_through(handle, 3 * STEP)
    mount.store._failures.clear()
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]


async def test_no_time_out_is_waited_for_twice(mount: ReadBench) -> None:
    """Who has waited for a fetch until it timed out has waited long enough."""
    async with trio.open_nursery() as readers:
        with mount.store.paused():
            handle = await mount.begin_stalled()
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
        bench = ReadBench(background, RecordingStore())
        await bench.fs.start()
        handle = await bench.begin()
        background.cancel_scope.cancel()
    assert bench.held_bytes == 0
    assert bench.chunks(handle) == []
