"""The page cache over a store that fails, loses replies, and is changed by others."""

import contextlib

import pytest
import trio
import trio.testing

from radosmount.cache.file import CachedFile
from radosmount.cache.schedule import RETRY_DELAY_S_MAX
from radosmount.config import MIB, ConflictMode
from radosmount.errors import (
    DeadlineExceeded,
    NoSpace,
    PermissionDenied,
    QuotaExceeded,
    TimedOut,
    VersionConflict,
)
from radosmount.store.memory import MemoryStore
from radosmount.store.posix import NS_PER_S
from tests.support.stores import (
    POOL_ID,
    CacheBench,
    StoppedOsd,
    content,
    is_apply,
    key_of,
    traceback_depth,
)

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")


# --- Failures


async def test_transient_failure_is_tried_again(
    bench: CacheBench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """After a full cluster the bytes are stored by themselves, soon after there is room."""
    nursery.start_soon(bench.cache.run)
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    bench.store.is_full = True
    await bench.cache.flush(file)
    assert isinstance(file.error, NoSpace)
    assert file.error_count == 1
    assert await content(bench, file) == b"abc"
    await trio.sleep(60)
    assert not file.is_clean
    bench.store.is_full = False
    await trio.sleep(30)
    assert bench.stored() == b"abc"
    assert file.is_clean
    assert bench.cache.held_bytes == 0
    assert bench.cache.dirty_files == ()


async def test_failing_files_leave_half_of_the_room(nursery: trio.Nursery) -> None:
    """Files that keep failing leave half of the room to others, and are written to again when they
    work again."""
    bench = CacheBench(nursery, size_bytes=4 * MIB)  # of which 2 MiB for what is unstored
    stuck, other = bench.new_file(b"stuck"), bench.new_file(b"other")
    await bench.cache.write(stuck, 0, bytes(900_000))
    bench.store.fail_next(TimedOut("no answer"), is_apply)
    await bench.cache.flush(stuck)
    with pytest.raises(TimedOut):
        await bench.cache.write(stuck, 900_000, bytes(200_000))
    await bench.cache.write(other, 0, bytes(1_000_000))
    await bench.cache.flush(other)
    assert bench.stored(b"other") == bytes(1_000_000)
    await bench.cache.flush(stuck)
    await bench.cache.write(stuck, 900_000, bytes(200_000))
    await bench.cache.flush(stuck)
    assert bench.stored(b"stuck") == bytes(1_100_000)


async def store_new(bench: CacheBench, name: bytes, pool_id: int = POOL_ID) -> CachedFile:
    """Open, write 1 MiB, close: which fails without an exception here."""
    file = bench.new_file(name, pool_id=pool_id)
    file.heard_s = trio.current_time()  # at the look-up
    await bench.cache.write(file, 0, bytes(MIB))
    file.writer_count = 0
    await bench.cache.flush(file)
    return file


async def test_a_full_pool_leaves_room(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Files that keep failing, and all that would grow in a full pool, leave half of that to
    others: what would be more is refused by write. So closed files of a full pool, each of them
    new, do not stop other pools, nor what is overwritten in place; there is no more to it once
    there is room."""
    store = MemoryStore(pools=(b"full", b"other"))
    bench = CacheBench(nursery, store, size_bytes=32 * MIB)  # of which 16 for what is unstored
    nursery.start_soon(bench.cache.run)
    in_place = bench.stored_file(bytes(MIB), b"in place")
    store.set_quota(POOL_ID, quota_bytes=MIB)
    kept = [await store_new(bench, b"kept-%d" % number) for number in range(8)]
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            await store_new(bench, b"refused")
    with trio.fail_after(0.1):
        for number in range(16):
            await store_new(bench, b"%d" % number, pool_id=2)
            await bench.cache.write(in_place, 0, bytes([number]) * MIB)
            await bench.cache.flush(in_place)
    assert bench.stored(b"in place") == bytes([15]) * MIB
    with pytest.raises(QuotaExceeded):  # it grows
        await bench.cache.write(in_place, 1, bytes(MIB))
    store.set_quota(POOL_ID)
    await trio.sleep(RETRY_DELAY_S_MAX + 2)
    assert all(file.is_clean for file in kept)
    for number in range(8):
        assert bench.stored(b"kept-%d" % number) == bytes(MIB)
    for number in range(16):
        file = bench.new_file(b"again-%d" % number)
        await bench.cache.write(file, 0, bytes(MIB // 2))


async def test_a_full_pool_gets_no_reserve(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Those that were written before the pool was known to be full may hold more than half, and
    no more than what is common: the rest is for other pools, which need not ask whether their OSD
    lives, since this one's does."""
    store = MemoryStore(pools=(b"full", b"other"))
    bench = CacheBench(nursery, store, size_bytes=32 * MIB)
    files = [bench.new_file(b"%d" % number) for number in range(20)]
    store.set_quota(POOL_ID, quota_bytes=1)
    for file in files:
        with contextlib.suppress(QuotaExceeded, DeadlineExceeded):
            await bench.cache.write(file, 0, bytes(MIB))
    assert bench.cache.held_bytes <= 12 * MIB
    with trio.fail_after(0.1):
        await store_new(bench, b"f", pool_id=2)
    assert store.read_now(key_of(b"f", 2)) == bytes(MIB)


async def test_refusals_hold_nothing(nursery: trio.Nursery) -> None:
    """A program that goes on writing what is refused does not make the process grow: the error
    that it gets again and again keeps no frames, and not what was to be written."""
    bench = CacheBench(nursery, size_bytes=4 * MIB)
    stuck = bench.new_file(b"stuck")
    await bench.cache.write(stuck, 0, bytes(900_000))
    bench.store.fail_next(NoSpace("full"), is_apply)
    await bench.cache.flush(stuck)
    depths = set()
    for _ in range(5):
        with pytest.raises(NoSpace) as refusal:
            await bench.cache.write(stuck, 900_000, bytes(200_000))
        depths.add(traceback_depth(refusal.value))
    assert len(depths) == 1


async def test_permanent_failure_is_kept_while_open(bench: CacheBench) -> None:
    """A permanent failure keeps the bytes while a writer has the file open."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    bench.store.fail_next(PermissionDenied("no"), is_apply)
    await bench.cache.flush(file)
    assert bench.cache.has_failed_for_good(file)
    assert await content(bench, file) == b"abc"
    await bench.cache.flush(file)
    assert bench.stored() == b"abc"
    assert not bench.cache.has_failed_for_good(file)


async def test_permanent_failure_without_writer(bench: CacheBench) -> None:
    """Without a spool, what can never be stored is lost when nobody has it open for writing."""
    file = bench.new_file(writer_count=0)
    await bench.cache.write(file, 0, b"abc")
    bench.store.fail_next(PermissionDenied("no"), is_apply)
    await bench.cache.flush(file)
    assert file.is_clean
    assert bench.cache.held_bytes == 0
    assert file.error_count == 1
    assert file.reported_error_count == 0


async def test_conflict(bench: CacheBench) -> None:
    """A flush onto an object that someone else changed is refused and overwrites nothing."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"x")
    bench.store.put_now(file.key, b"theirs")
    await bench.cache.flush(file)
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() == b"theirs"


async def test_conflict_of_new_file(bench: CacheBench) -> None:
    """A new file does not overwrite one that someone else made meanwhile."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"x")
    bench.store.put_now(file.key, b"theirs")
    await bench.cache.flush(file)
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() == b"theirs"


async def test_conflict_with_removed_object(bench: CacheBench) -> None:
    """A flush does not bring back an object that someone else removed."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"x")
    bench.store.remove_now(file.key)
    await bench.cache.flush(file)
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() is None


async def test_last_writer_wins_where_asked_for(nursery: trio.Nursery) -> None:
    """With conflict=last-writer a flush overwrites what someone else wrote."""
    bench = CacheBench(nursery, conflict=ConflictMode.LAST_WRITER)
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"x")
    bench.store.put_now(file.key, b"theirs")
    await bench.cache.flush(file)
    assert bench.stored() == b"xheirs"


async def test_lost_reply(bench: CacheBench) -> None:
    """A write that was applied though its reply was lost is recognised at the next try."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"xyz1")
    bench.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    await bench.cache.flush(file)
    assert isinstance(file.error, TimedOut)
    assert file.error_count == 1
    await bench.cache.flush(file)
    assert file.error_count == 1
    assert file.is_clean
    assert file.base == bench.stat()
    assert bench.stored() == b"xyz1"


async def test_lost_reply_of_new_file(bench: CacheBench) -> None:
    """An object that was made though the reply was lost is ours at the next try."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    bench.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    await bench.cache.flush(file)
    await bench.cache.flush(file)
    assert file.error_count == 1
    assert file.is_clean
    assert bench.stored() == b"abc"


async def test_written_after_lost_reply(bench: CacheBench) -> None:
    """Bytes that are overwritten here after a lost reply are no foreign change."""
    file = bench.stored_file(b"abcdef")
    await bench.cache.write(file, 0, b"12")
    bench.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    await bench.cache.flush(file)
    await bench.cache.write(file, 1, b"34")
    bench.cache.truncate(file, 4)
    await bench.cache.flush(file)
    assert file.error_count == 1
    assert file.is_clean
    assert bench.stored() == b"134d"


async def test_foreign_change_after_lost_request(bench: CacheBench) -> None:
    """A request that was lost before it was applied does not hide what someone else wrote."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"x")
    bench.store.fail_next(TimedOut("lost"), is_apply)
    await bench.cache.flush(file)
    bench.store.put_now(file.key, b"abz")
    await bench.cache.flush(file)
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() == b"abz"


async def test_mtime_alone_with_lost_reply(bench: CacheBench) -> None:
    """A lost reply to an mtime is no licence to overwrite a foreign write of the same size."""
    file = bench.stored_file(b"abc")
    bench.cache.set_mtime(file, 1_100_000_000 * NS_PER_S)
    bench.store.fail_next(TimedOut("lost"), is_apply)
    await bench.cache.flush(file)
    bench.store.put_now(file.key, b"xyz")
    await bench.cache.write(file, 0, b"1")
    await bench.cache.flush(file)
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() == b"xyz"


async def test_half_stored_flush_is_continued(many: CacheBench) -> None:
    """A flush of several operations that failed half way for want of room is stored later."""
    file = many.stored_file(b"")
    await many.cache.write(file, 0, b"0123456789abcdef")
    many.store.fail_next(QuotaExceeded("full"), is_apply, skip_count=1)
    await many.cache.flush(file)
    assert isinstance(file.error, QuotaExceeded)
    assert await content(many, file) == b"0123456789abcdef"
    await many.cache.flush(file)
    assert file.error_count == 1
    assert many.stored() == b"0123456789abcdef"
    assert file.base == many.stat()
    assert many.cache.held_bytes == 0


async def test_what_is_repeated_is_no_advance(
    many: CacheBench, autojump_clock: trio.testing.MockClock
) -> None:
    """A flush that is acknowledged in part, fails, and is tried again may go on like that for ever:
    it gets on only once it is stored."""
    file = many.stored_file(b"")
    await many.cache.write(file, 0, b"0123456789abcdef")
    advanced_s = []
    for _ in range(3):
        many.store.fail_next(QuotaExceeded("full"), is_apply, skip_count=1)
        await trio.sleep(1)
        await many.cache.flush(file)
        advanced_s.append(many.cache.advanced_s)
    assert file.error_count == 3
    assert advanced_s == [1, 1, 1]
    await trio.sleep(1)
    await many.cache.flush(file)
    assert many.cache.advanced_s == 4


async def test_half_stored_flush_then_truncate(many: CacheBench) -> None:
    """A truncate after a flush that was stored half way cuts off what that had stored."""
    file = many.stored_file(b"")
    await many.cache.write(file, 0, b"0123456789abcdef")
    many.store.fail_next(QuotaExceeded("full"), is_apply, skip_count=1)
    await many.cache.flush(file)
    bench_size = many.stat().size
    assert bench_size > 6
    many.cache.truncate(file, 6)
    await many.cache.flush(file)
    assert many.stored() == b"012345"
    assert file.error_count == 1


@pytest.mark.parametrize("is_applied", [True, False])
@pytest.mark.parametrize("failing_index", [0, 1, 2, 3])
async def test_lost_reply_half_way(many: CacheBench, failing_index: int, is_applied: bool) -> None:
    """A lost reply to any operation of a flush does not lose bytes, nor the file."""
    file = many.stored_file(b"")
    await many.cache.write(file, 0, b"0123456789abcdef")
    many.store.fail_next(TimedOut("lost"), is_apply, skip_count=failing_index, applied=is_applied)
    await many.cache.flush(file)
    assert file.error_count == 1
    await many.cache.write(file, 3, b"XX")
    assert await content(many, file) == b"012XX56789abcdef"
    await many.cache.flush(file)
    assert file.error_count == 1
    assert many.stored() == b"012XX56789abcdef"
    assert many.cache.held_bytes == 0


async def test_bytes_written_during_failed_flush(bench: CacheBench, nursery: trio.Nursery) -> None:
    """When a flush fails, what was written meanwhile lies over what it could not store."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"aaaa")
    bench.store.fail_next(NoSpace("full"), is_apply)
    with bench.store.paused():
        nursery.start_soon(bench.cache.flush, file)
        await trio.testing.wait_all_tasks_blocked()
        await bench.cache.write(file, 1, b"bb")
        bench.cache.truncate(file, 3)
    await trio.testing.wait_all_tasks_blocked()
    assert file.error_count == 1
    assert await content(bench, file) == b"abb"
    assert bench.cache.held_bytes == 3
    await bench.cache.flush(file)
    assert bench.stored() == b"abb"


@pytest.mark.parametrize("lost_count", [0, 1, 16, 18, 19])
async def test_many_lost_replies(bench: CacheBench, lost_count: int) -> None:
    """However often a flush is tried again in vain, the one that is applied late is ours."""
    file = bench.stored_file(b"abc")
    osd = StoppedOsd(bench.store)
    for index in range(20):
        await bench.cache.write(file, 0, b"%02d" % index)
        await bench.cache.flush(file)
    await osd.wake(lost_count)
    await bench.cache.flush(file)
    assert isinstance(file.error, TimedOut)
    assert bench.stored() == b"19c"
    assert file.is_clean


@pytest.mark.parametrize("lost_count", [0, 1, 15, 16])
async def test_many_lost_replies_of_new_file(bench: CacheBench, lost_count: int) -> None:
    """So it is with an object that was made late."""
    file = bench.new_file()
    osd = StoppedOsd(bench.store)
    for index in range(20):
        await bench.cache.write(file, 0, b"%02d" % index)
        await bench.cache.flush(file)
    await osd.wake(lost_count)
    await bench.cache.flush(file)
    assert isinstance(file.error, TimedOut)
    assert bench.stored() == b"19"


async def test_what_was_sent_often_is_never_stored_late(bench: CacheBench) -> None:
    """Where many operations were lost, those that come to light after the next one are refused."""
    file = bench.stored_file(b"abc")
    osd = StoppedOsd(bench.store)
    for index in range(20):
        await bench.cache.write(file, 0, b"%02d" % index)
        await bench.cache.flush(file)
    bench.store.delay = None
    bench.store.fail_next(TimedOut("lost"), is_apply, skip_count=1)
    await bench.cache.flush(file)
    await osd.wake()
    assert bench.stored() == b"abc"
    await bench.cache.flush(file)
    assert isinstance(file.error, TimedOut)
    assert bench.stored() == b"19c"
