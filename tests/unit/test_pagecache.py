"""The page cache over a memory store: who waits for what, and what the store gets."""

import pytest
import trio
import trio.testing

from radosmount.cache.file import CachedFile
from radosmount.cache.orphan import Orphan
from radosmount.config import MIB, ConflictMode, FlushMode
from radosmount.errors import (
    DeadlineExceeded,
    FileTooBig,
    NoSpace,
    PermissionDenied,
    QuotaExceeded,
    StaleFile,
    TimedOut,
    VersionConflict,
)
from radosmount.store.interface import (
    AtVersion,
    Change,
    Existence,
    Limits,
    SetXattr,
    Truncate,
    Write,
    WriteFull,
)
from radosmount.store.memory import MemoryStore
from tests.support.stores import CacheBench, is_apply, is_call, key_of

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")


def small_store() -> MemoryStore:
    """A store whose operations carry 8 bytes, so that a few bytes are a flush of several."""
    return MemoryStore(Limits(object_bytes_max=1000, operation_bytes_max=8))


@pytest.fixture
def bench(nursery: trio.Nursery) -> CacheBench:
    return CacheBench(nursery)


@pytest.fixture
def many(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> CacheBench:
    """Flushes of several operations: 4 bytes an extent, 4 an operation."""
    monkeypatch.setattr("radosmount.cache.extents.BLOCK_BYTES", 4)
    monkeypatch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 4)
    return CacheBench(nursery, atomic_max_bytes=0)


async def content(bench: CacheBench, file: CachedFile) -> bytes:
    return bytes(await bench.cache.read(file, 0, 1000))


# --- Reading and writing


async def test_new_file_goes_out_as_one_operation(bench: CacheBench) -> None:
    """A new file reaches the store whole, with its xattrs and mtime, and only where none is."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"hello ")
    await bench.cache.write(file, 6, b"world")
    bench.cache.stage_xattr(file, b"color", b"blue")
    bench.cache.set_mtime(file, 1_600_000_000)
    await bench.cache.flush(file)
    steps = (WriteFull(b"hello world"), SetXattr(b"color", b"blue"))
    assert bench.store.changes == [
        (file.key, Change(steps, Existence.ABSENT, mtime_s=1_600_000_000))
    ]
    assert file.is_clean
    assert bench.cache.held_bytes == 0
    assert file.base == bench.stat()


async def test_only_written_bytes_are_sent(bench: CacheBench) -> None:
    """A flush sends the bytes that were written, never their neighbours."""
    file = bench.stored_file(b"0123456789")
    version = file.base.version
    await bench.cache.write(file, 2, b"ab")
    await bench.cache.write(file, 7, b"c")
    assert await content(bench, file) == b"01ab456c89"
    await bench.cache.flush(file)
    [(_, change)] = bench.store.changes
    assert change.steps == (Write(2, b"ab"), Write(7, b"c"))
    assert change.guard == AtVersion(version)
    assert bench.stored() == b"01ab456c89"


async def test_read_beyond_end(bench: CacheBench) -> None:
    """A read at or behind the end gives nothing, one across it gives what there is."""
    file = bench.stored_file(b"abc")
    assert bytes(await bench.cache.read(file, 3, 5)) == b""
    assert bytes(await bench.cache.read(file, 9, 5)) == b""
    assert bytes(await bench.cache.read(file, 1, 5)) == b"bc"


async def test_hole_reads_as_zeros(bench: CacheBench) -> None:
    """What lies between the old end and a later write is zeros, before and after the flush."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 6, b"x")
    assert await content(bench, file) == b"abc\0\0\0x"
    await bench.cache.flush(file)
    assert bench.stored() == b"abc\0\0\0x"


async def test_cut_and_grown_reads_as_zeros(bench: CacheBench) -> None:
    """Bytes that were cut off do not come back when the file grows again."""
    file = bench.stored_file(b"abcdef")
    bench.cache.truncate(file, 2)
    bench.cache.truncate(file, 5)
    assert await content(bench, file) == b"ab\0\0\0"
    await bench.cache.flush(file)
    assert bench.stored() == b"ab\0\0\0"


async def test_truncate_to_same_size(bench: CacheBench) -> None:
    """Truncating to the size that a file has changes its mtime only."""
    file = bench.stored_file(b"abc")
    bench.cache.truncate(file, 3)
    await bench.cache.flush(file)
    assert file.error is None
    assert file.is_clean
    assert bench.stored() == b"abc"
    assert bench.stat().mtime_s > 1_000_000_000


async def test_mtime_set_during_flush(bench: CacheBench) -> None:
    """An mtime that is set while the bytes are on their way is stored after them."""
    file = bench.stored_file(b"abc")
    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            await bench.cache.write(file, 0, b"x")
            nursery.start_soon(bench.cache.flush, file)
            await trio.testing.wait_all_tasks_blocked()
            bench.cache.set_mtime(file, 1_234_567_890)
    await bench.cache.flush(file)
    assert file.error is None
    assert bench.stat().mtime_s == 1_234_567_890
    assert bench.stored() == b"xbc"


async def test_write_during_flush_is_not_lost(bench: CacheBench, nursery: trio.Nursery) -> None:
    """Bytes written while others are being stored need no wait, and go out with the next flush."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"old")
    with bench.store.paused():
        nursery.start_soon(bench.cache.flush, file)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await bench.cache.write(file, 1, b"new")
        assert await content(bench, file) == b"onew"
    await bench.cache.flush(file)
    assert bench.stored() == b"onew"
    assert bench.cache.held_bytes == 0


async def test_reader_during_flush_and_truncate(bench: CacheBench, nursery: trio.Nursery) -> None:
    """A file that is rewritten while its old bytes are on their way reads as the new ones."""
    file = bench.stored_file(b"0123456789")
    await bench.cache.write(file, 0, b"ABCDEF")
    with bench.store.paused():
        nursery.start_soon(bench.cache.flush, file)
        await trio.testing.wait_all_tasks_blocked()
        bench.cache.truncate(file, 0)
        await bench.cache.write(file, 2, b"z")
        assert await content(bench, file) == b"\0\0z"
    assert await content(bench, file) == b"\0\0z"
    await bench.cache.flush(file)
    assert bench.stored() == b"\0\0z"


async def test_read_of_bytes_in_flight(bench: CacheBench, nursery: trio.Nursery) -> None:
    """Bytes that are on their way to a store that does not answer are read without it."""
    file = bench.stored_file(b"begin, end")
    await bench.cache.write(file, 0, b"BEGIN")
    with bench.store.paused():
        nursery.start_soon(bench.cache.flush, file)
        await trio.testing.wait_all_tasks_blocked()
        await bench.cache.write(file, 5, b";")
        with trio.fail_after(1):
            assert await bench.cache.read(file, 0, 6) == b"BEGIN;"
    await bench.cache.flush(file)
    assert bench.stored() == b"BEGIN; end"


async def test_read_under_way_when_flush_ends(bench: CacheBench) -> None:
    """A read that began before a write's flush never mixes in bytes older than the write."""
    file = bench.stored_file(b"0123456789")
    await bench.cache.write(file, 4, b"ab")
    results: list[bytes] = []

    async def read() -> None:
        results.append(await content(bench, file))

    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            nursery.start_soon(bench.cache.flush, file)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
    assert results == [b"0123ab6789"]


async def test_read_of_removed_object(bench: CacheBench) -> None:
    """A read of an object that someone removed is ESTALE, not zeros."""
    file = bench.stored_file(b"abc")
    bench.store.remove_now(file.key)
    with pytest.raises(StaleFile):
        await bench.cache.read(file, 0, 3)


async def test_read_follows_a_rename(bench: CacheBench) -> None:
    """A read whose object was renamed meanwhile finds it under the new name."""
    file = bench.stored_file(b"abc")
    results: list[bytes] = []

    async def read() -> None:
        results.append(await content(bench, file))

    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            bench.store.put_now(key_of(b"g"), b"abc")
            bench.store.put_now(key_of(b"f"), b"another's")
            file.key = key_of(b"g")
    assert results == [b"abc"]


async def test_read_of_file_unlinked_meanwhile(bench: CacheBench) -> None:
    """A read that arrives after the file was unlinked and its name taken reads its own bytes."""
    file = bench.stored_file(b"abc")
    results: list[bytes] = []

    async def read() -> None:
        results.append(await content(bench, file))

    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            bench.store.put_now(key_of(b"f"), b"another's")
            file.orphan = Orphan()
            file.orphan.write(0, b"abc")
            bench.cache.move_to_orphan(file)
    assert results == [b"abc"]
    file.orphan.close()


async def test_clean_read_sees_that_the_object_changed(bench: CacheBench) -> None:
    """A read that meets another version than was known makes the file suspect."""
    file = bench.stored_file(b"abc")
    bench.store.put_now(file.key, b"xyz")
    assert await content(bench, file) == b"xyz"
    assert file.is_suspect


async def test_too_big(nursery: trio.Nursery) -> None:
    """The write that crosses one object's limit is refused, and nothing before it is lost."""
    bench = CacheBench(nursery, small_store())
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    with pytest.raises(FileTooBig):
        await bench.cache.write(file, 998, b"xyz")
    with pytest.raises(FileTooBig):
        bench.cache.truncate(file, 1001)
    bench.cache.truncate(file, 1000)
    await bench.cache.flush(file)
    assert bench.stored() == b"abc".ljust(1000, b"\0")
    assert bench.cache.held_bytes == 0


async def test_write_to_removed_file(bench: CacheBench) -> None:
    """A file that was unlinked and kept by nobody takes no more bytes."""
    file = bench.new_file()
    bench.cache.discard(file)
    file.is_unlinked = True
    with pytest.raises(StaleFile):
        await bench.cache.write(file, 0, b"x")
    with pytest.raises(StaleFile):
        bench.cache.truncate(file, 0)
    assert bench.cache.held_bytes == 0


async def test_sync_mode(nursery: trio.Nursery) -> None:
    """With flush=sync a write returns when the store has it."""
    bench = CacheBench(nursery, flush=FlushMode.SYNC)
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    assert bench.stored() == b"abc"
    await bench.cache.write(file, 1, b"x")
    assert bench.stored() == b"axc"


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
    """What can never be stored is dropped when nobody has the file open for writing."""
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
    bench.cache.set_mtime(file, 1_100_000_000)
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


# --- Appending


async def test_append_goes_to_the_end(bench: CacheBench) -> None:
    """An append is put at the end, whatever offset the kernel thinks of."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"d", is_append=True)
    await bench.cache.write(file, 1, b"e", is_append=True)
    await bench.cache.flush(file)
    assert bench.stored() == b"abcde"


async def test_append_behind_a_foreign_append(bench: CacheBench) -> None:
    """An append goes behind what someone else appended meanwhile."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.put_now(file.key, b"abc+theirs")
    await bench.cache.flush(file)
    assert bench.stored() == b"abc+theirsours"
    assert await content(bench, file) == b"abc+theirsours"
    assert file.error is None


async def test_append_lost_reply_then_foreign_append(bench: CacheBench) -> None:
    """An append whose reply was lost is not doubled when someone appends behind it."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    await bench.cache.flush(file)
    await bench.cache.write(file, 0, b"+more", is_append=True)
    bench.store.put_now(file.key, b"abcours+theirs")
    await bench.cache.flush(file)
    assert bench.stored() == b"abcours+theirs+more"
    assert file.error_count == 1
    assert await content(bench, file) == b"abcours+theirs+more"


async def test_append_lost_request_then_foreign_append(bench: CacheBench) -> None:
    """An append that was lost on its way is put behind what someone else appended."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.fail_next(TimedOut("lost"), is_apply)
    await bench.cache.flush(file)
    bench.store.put_now(file.key, b"abc+theirs")
    await bench.cache.flush(file)
    assert bench.stored() == b"abc+theirsours"


async def test_half_stored_append_is_not_doubled(many: CacheBench) -> None:
    """An append that was stored half way is not put behind a foreign one a second time."""
    file = many.stored_file(b"0123")
    await many.cache.write(file, 0, b"aaaabbbb", is_append=True)
    many.store.fail_next(QuotaExceeded("full"), is_apply, skip_count=1)
    await many.cache.flush(file)
    assert many.stored() == b"0123aaaa"
    many.store.put_now(file.key, b"0123aaaa+")
    await many.cache.flush(file)
    assert isinstance(file.error, VersionConflict)
    assert many.stored() == b"0123aaaa+"


async def test_write_while_append_is_refused(bench: CacheBench) -> None:
    """A plain write while an append asks for its new place makes it a conflict, not a crash."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.put_now(file.key, b"abc+theirs")
    written = trio.Event()

    async def write_meanwhile(call: object) -> None:
        if is_call("stat")(call) and not written.is_set():  # type: ignore[arg-type]
            written.set()
            await bench.cache.write(file, 0, b"X")

    bench.store.delay = write_meanwhile
    await bench.cache.flush(file)
    assert written.is_set()
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() == b"abc+theirs"
    assert await content(bench, file) == b"Xbc+thers"[:3] + b"ours"


# --- Room and time


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
    await trio.sleep(60)
    assert bench.stored() == b"old content"
    await bench.cache.flush(file)
    [(_, change)] = bench.store.changes
    assert change.steps == (WriteFull(b"new"),)


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
