"""The page cache over a memory store: room, deadlines, and what is stored by itself."""

import pytest
import trio
import trio.testing

from radosmount.cache.pagecache import HELD_BACK_S
from radosmount.config import MIB, FlushMode
from radosmount.errors import (
    DeadlineExceeded,
    NoSpace,
    TimedOut,
    VersionConflict,
)
from radosmount.store.interface import (
    Truncate,
    Write,
    WriteFull,
)
from tests.support.stores import CacheBench, is_apply, key_of

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")


async def test_flush_deadline(bench: CacheBench, autojump_clock: trio.testing.MockClock) -> None:
    """A flush that the store does not answer ends in time, and its bytes are stored later."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    with bench.store.paused():
        with pytest.raises(DeadlineExceeded):
            await bench.cache.flush(file)
        assert trio.current_time() == pytest.approx(30, abs=1)
    await bench.cache.flush(file)
    assert bench.stored() == b"abc"


async def test_flush_deadline_goes_on(
    bench: CacheBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Who asks again, while the store has not answered about a file for `timeout`, hears of that
    soon; for one that is asked about for the first time it is waited as long as for any."""
    file, other = bench.new_file(), bench.new_file(b"other")
    await trio.sleep(100)
    with bench.store.paused():
        for ends_s in (130, 133, 136):
            with pytest.raises(DeadlineExceeded):
                await bench.cache.flush(file)
            assert trio.current_time() == pytest.approx(ends_s, abs=1)
        with pytest.raises(DeadlineExceeded):
            await bench.cache.flush(other)
        assert trio.current_time() == pytest.approx(166, abs=1)
    await bench.cache.flush(file)
    assert file.is_clean
    await trio.sleep(100)
    bench.cache.set_mtime(file, 0)
    with bench.store.paused(), pytest.raises(DeadlineExceeded):
        await bench.cache.flush(file)
    assert trio.current_time() == pytest.approx(296, abs=1)


@pytest.mark.expects_log("is not stored")
async def test_flush_deadline_after_a_failure(
    bench: CacheBench, autojump_clock: trio.testing.MockClock
) -> None:
    """A refusal is an answer, a time-out of the store is none."""
    file = bench.new_file()
    for error, waits_s in ((NoSpace("full"), 30), (TimedOut("lost"), 3)):
        bench.store.fail_next(error, is_apply)
        await bench.cache.flush(file)
        await trio.sleep(100)
        start_s = trio.current_time()
        with bench.store.paused(), pytest.raises(DeadlineExceeded):
            await bench.cache.flush(file)
        assert trio.current_time() == pytest.approx(start_s + waits_s, abs=1)
        await trio.testing.wait_all_tasks_blocked()
        assert file.is_clean
        bench.cache.set_mtime(file, 0)


async def test_who_waits_behind_a_flush_hears_of_its_progress(
    many: CacheBench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A change of a file waits for its turn as long as the flush before it goes on."""
    file = many.new_file()
    await many.cache.write(file, 0, bytes(100))

    async def take_a_while(call: object) -> None:
        await trio.sleep(20)

    async def change(_: object) -> str:
        return "done"

    many.store.delay = take_a_while
    nursery.start_soon(many.cache.flush, file)
    await trio.testing.wait_all_tasks_blocked()
    assert await many.sequencer.run(file.key, change) == "done"
    assert file.is_clean
    assert trio.current_time() > 90


async def test_cancelled_waiter_does_not_stop_the_flush(bench: CacheBench) -> None:
    """A flush goes on when whoever waits for it is cancelled."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    with bench.store.paused(), trio.CancelScope() as scope:
        scope.cancel()
        await bench.cache.flush(file)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.stored() == b"abc"
    assert file.is_clean


async def test_writers_wait_for_room(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Eight writers through a tiny cache never hold more than half of it, and lose nothing."""
    bench = CacheBench(nursery, size_bytes=64 * 1024, atomic_max_bytes=8 * 1024)
    nursery.start_soon(bench.cache.run)
    peak = 0

    async def write(index: int) -> None:
        nonlocal peak
        file = bench.new_file(b"f%d" % index)
        for number in range(50):
            await bench.cache.write(file, number * 4096, bytes([index + 1]) * 4096)
            peak = max(peak, bench.cache.held_bytes)
        await bench.cache.flush(file)
        assert file.error is None

    async with trio.open_nursery() as writers:
        for index in range(8):
            writers.start_soon(write, index)
    assert peak <= 32 * 1024
    assert bench.cache.held_bytes == 0
    for index in range(8):
        assert bench.stored(b"f%d" % index) == bytes([index + 1]) * 4096 * 50


async def test_full_cache_and_dead_store(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A writer that finds no room gets an error once nothing was stored for the timeout."""
    bench = CacheBench(nursery, size_bytes=64 * 1024)
    nursery.start_soon(bench.cache.run)
    file = bench.new_file()
    with bench.store.paused():
        await bench.cache.write(file, 0, bytes(32 * 1024))
        with pytest.raises(DeadlineExceeded):
            await bench.cache.write(file, 32 * 1024, bytes(4096))
    await bench.cache.write(file, 32 * 1024, bytes(4096))
    await bench.cache.flush(file)
    assert bench.stored() == bytes(36 * 1024)
    assert bench.cache.held_bytes == 0


async def test_lazy_files_expire(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What nobody flushes is stored once it has been dirty for dirty_expire."""
    bench = CacheBench(nursery, flush=FlushMode.LAZY)
    nursery.start_soon(bench.cache.run)
    file = bench.new_file(writer_count=0)
    await bench.cache.write(file, 0, b"abc")
    await trio.sleep(3)
    assert bench.stored() is None
    await trio.sleep(4)
    assert bench.stored() == b"abc"


async def test_rewritten_file_is_held_back(
    bench: CacheBench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A file that is rewritten stays whole in the store until its writer closes or asks."""
    nursery.start_soon(bench.cache.run)
    file = bench.stored_file(b"old content")
    bench.cache.truncate(file, 0)
    await bench.cache.write(file, 0, b"new")
    await trio.sleep(3600)
    assert bench.stored() == b"old content"
    await bench.cache.flush(file)
    [(_, change)] = bench.store.changes
    assert change.steps == (WriteFull(b"new"),)


async def test_a_new_file_that_stays_open_is_stored_in_the_end(
    bench: CacheBench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A log that is never synced: there is no old content to keep whole, and a crash would lose
    all of it."""
    nursery.start_soon(bench.cache.run)
    file = bench.new_file()
    await bench.cache.write(file, 0, b"a line")
    await trio.sleep(HELD_BACK_S - 1)
    assert bench.stored() is None
    await trio.sleep(3)
    assert bench.stored() == b"a line"
    await bench.cache.write(file, 6, b", another")
    await trio.sleep(bench.config.dirty_expire_s + 2)
    assert bench.stored() == b"a line, another"


async def test_large_file_streams(bench: CacheBench) -> None:
    """A file beyond atomic_max is stored while it is being written."""
    file = bench.new_file()
    for number in range(32):
        await bench.cache.write(file, number * MIB, bytes([number]) * MIB)
        await trio.testing.wait_all_tasks_blocked()
    assert bench.stat().size >= 16 * MIB
    assert bench.cache.held_bytes <= 16 * MIB
    await bench.cache.flush(file)
    assert bench.stored() == b"".join(bytes([number]) * MIB for number in range(32))


async def test_held_back_truncate_goes_out_with_the_first_piece(bench: CacheBench) -> None:
    """A rewritten file beyond atomic_max cuts off the old content with its first piece."""
    file = bench.stored_file(bytes(3 * MIB))
    bench.cache.truncate(file, 0)
    for number in range(17):
        await bench.cache.write(file, number * MIB, b"x" * MIB)
    await bench.cache.flush(file)
    first = bench.store.changes[0][1]
    assert first.steps[0] == Truncate(0)
    assert isinstance(first.steps[1], Write)
    assert bench.stored() == b"x" * 17 * MIB


async def test_failing_stream_is_not_hammered(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A stream onto a full cluster is tried again now and then, not at every write."""
    bench = CacheBench(nursery, size_bytes=8 * MIB, atomic_max_bytes=0)
    file = bench.new_file()
    bench.store.is_full = True
    for number in range(200):
        await bench.cache.write(file, number * 10_000, bytes(10_000))
        await trio.testing.wait_all_tasks_blocked()
    assert 1 <= file.error_count <= 2


async def test_what_cannot_be_stored_does_not_fill_the_cache(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A writer of a file that can never be stored hears so before the cache is full of it."""
    bench = CacheBench(nursery, size_bytes=8 * MIB)
    nursery.start_soon(bench.cache.run)
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, bytes(MIB))
    bench.store.put_now(file.key, b"theirs")
    await bench.cache.flush(file)

    async def write_all() -> None:
        for number in range(8):
            await bench.cache.write(file, number * MIB, bytes(MIB))

    with pytest.raises(VersionConflict):
        await write_all()
    assert bench.cache.held_bytes <= 2 * MIB


async def test_flush_in_turn_of_a_failed_file(bench: CacheBench) -> None:
    """A flush within another operation of the file raises what stopped it."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    bench.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await bench.cache.flush_in_turn(file)
    await bench.cache.flush_in_turn(file)
    assert bench.stored() == b"abc"
    assert bench.cache.dirty_files == ()


async def test_flush_of_a_renamed_file(bench: CacheBench, nursery: trio.Nursery) -> None:
    """A flush that waited while the file was renamed stores it under its new name."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    gate = trio.Event()
    bench.sequencer.submit(file.key, gate.wait)
    nursery.start_soon(bench.cache.flush, file)
    await trio.testing.wait_all_tasks_blocked()
    file.key = key_of(b"g")
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.stored(b"g") == b"abc"
    assert bench.stored(b"f") is None
    assert file.is_clean
