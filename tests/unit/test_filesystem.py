"""What each call of the file system means, over a memory store."""

import os
import stat

import pytest
import trio
import trio.testing

from radosmount.config import ConflictMode, FlushMode, ViewConfig
from radosmount.errors import (
    AccessDenied,
    CrossPool,
    DeadlineExceeded,
    EntryExists,
    FileTooBig,
    InvalidCall,
    IsDirectory,
    MountError,
    NoSpace,
    NoSuchEntry,
    NotDirectory,
    NotPermitted,
    PermissionDenied,
    ReadOnly,
    StaleFile,
    TimedOut,
    Unsupported,
    VersionConflict,
)
from radosmount.store.interface import (
    Change,
    Existence,
    Limits,
    SetOmap,
    SetXattr,
    Write,
    WriteFull,
)
from radosmount.store.memory import Call, MemoryStore
from radosmount.vfs.attributes import NS_PER_S, AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.stores import is_apply, is_call, key_of

FAILS = pytest.mark.expects_log("is not stored|could not be stored")


@pytest.fixture
async def mount(nursery: trio.Nursery) -> MountBench:
    bench = MountBench(nursery)
    await bench.fs.start()
    return bench


async def started(nursery: trio.Nursery, **settings: object) -> MountBench:
    bench = MountBench(nursery, **settings)  # type: ignore[arg-type]
    await bench.fs.start()
    return bench


def removes(call: Call) -> bool:
    return is_apply(call) and "Remove()" in repr(call.change)


# --- Names


async def test_file_becomes_object(mount: MountBench) -> None:
    """A file that was written and closed is an object of the same name and content."""
    await mount.put(b"1.jpg", b"picture")
    assert mount.stored(b"1.jpg") == b"picture"
    assert await mount.get(b"1.jpg") == b"picture"
    assert await mount.names() == [b"1.jpg"]


async def test_object_is_a_file(mount: MountBench) -> None:
    """An object that another client made is a file of its size, mtime and content."""
    mount.store.put_now(key_of(b"o"), b"12345", mtime_s=1_234_567_890)
    found = await mount.stat(b"o")
    assert (found.size, found.mtime_ns) == (5, 1_234_567_890 * NS_PER_S)
    assert stat.S_ISREG(found.mode)
    assert stat.S_IMODE(found.mode) == 0o644
    assert found.nlink == 1
    assert await mount.get(b"o") == b"12345"


async def test_lookup_of_nothing(mount: MountBench) -> None:
    """A name without an object is ENOENT."""
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"nothing")


async def test_lookup_below_a_file(mount: MountBench) -> None:
    """A file has no entries: ENOTDIR."""
    await mount.put(b"f", b"")
    ino = (await mount.stat(b"f")).ino
    with pytest.raises(NotDirectory):
        await mount.fs.lookup(ino, b"x")
    with pytest.raises(NotDirectory):
        mount.fs.open_directory(ino)


async def test_unlink(mount: MountBench) -> None:
    """Unlinking removes the object; a second time it is ENOENT."""
    await mount.put(b"f", b"x")
    await mount.unlink(b"f")
    assert mount.stored(b"f") is None
    with pytest.raises(NoSuchEntry):
        await mount.unlink(b"f")
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"f")


async def test_unlink_of_unstored_file(mount: MountBench) -> None:
    """A file that was unlinked before its first flush never becomes an object."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    await mount.unlink(b"f")
    await mount.fs.write(handle, 3, b"def")
    assert await mount.read(handle) == b"abcdef"
    await mount.close(handle)
    assert mount.store.changes == []
    assert mount.fs.dirty_bytes() == 0


async def test_unlinked_file_lives_on_with_its_handles(mount: MountBench) -> None:
    """Whoever has a file open reads and writes it after its unlinking, and nobody else does."""
    await mount.put(b"f", b"0123456789")
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 8, b"abc")
    await mount.unlink(b"f")
    await mount.put(b"f", b"another")
    assert await mount.read(handle) == b"01234567abc"
    await mount.fs.write(handle, 0, b"X")
    assert await mount.read(handle, 0, 3) == b"X12"
    await mount.close(handle)
    assert mount.stored(b"f") == b"another"
    assert mount.fs.unwritten() == []


async def test_attributes_of_unlinked_file(mount: MountBench) -> None:
    """An unlinked file that is open has no link, and can be truncated."""
    await mount.put(b"f", b"0123456789")
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    await mount.unlink(b"f")
    found = await mount.fs.get_attributes(ino)
    assert (found.nlink, found.size) == (0, 10)
    await mount.fs.set_attributes(ino, AttributeChange(size=4), has_handle=True)
    await mount.fs.set_attributes(ino, AttributeChange(mtime_ns=NS_PER_S), has_handle=True)
    assert await mount.read(handle) == b"0123"
    await mount.close(handle)
    assert mount.stored(b"f") is None


async def test_unlink_during_flush(mount: MountBench, nursery: trio.Nursery) -> None:
    """Unlinking while a flush is under way leaves no object behind."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    with mount.store.paused():
        nursery.start_soon(mount.fs.sync, handle)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(mount.unlink, b"f")
        await trio.testing.wait_all_tasks_blocked()
        await mount.fs.write(handle, 3, b"def")
    await trio.testing.wait_all_tasks_blocked()
    assert mount.stored(b"f") is None
    assert await mount.read(handle) == b"abcdef"
    await mount.close(handle)
    assert mount.stored(b"f") is None


@FAILS
async def test_unlink_after_lost_first_flush(mount: MountBench) -> None:
    """A new file whose first flush may have been applied is removed in the store too."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    with pytest.raises(TimedOut):
        await mount.fs.sync(handle)
    await mount.unlink(b"f")
    assert mount.stored(b"f") is None
    assert await mount.read(handle) == b"abc"
    await mount.close(handle)
    assert mount.stored(b"f") is None


@FAILS
async def test_unlink_after_lost_first_request(mount: MountBench) -> None:
    """A new file whose first flush did not arrive is unlinked without an error."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.store.fail_next(TimedOut("lost"), is_apply)
    with pytest.raises(TimedOut):
        await mount.fs.sync(handle)
    await mount.unlink(b"f")
    await mount.close(handle)
    assert mount.stored(b"f") is None


async def test_xattr_of_unlinked_file(mount: MountBench) -> None:
    """An xattr that is set on an unlinked file does not bring it back, nor touch another."""
    handle, ino = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    await mount.unlink(b"f")
    with pytest.raises(StaleFile):
        await mount.fs.set_xattr(ino, b"user.color", b"blue")
    await mount.put(b"f", b"another")
    assert await mount.fs.list_xattrs(ino) == []
    with pytest.raises(StaleFile):
        await mount.fs.set_xattr(ino, b"user.color", b"blue")
    await mount.close(handle)
    assert mount.stored(b"f") == b"another"
    assert mount.store.xattrs_now(key_of(b"f")) == {}


async def test_unlink_while_the_object_changes(mount: MountBench) -> None:
    """An open file that someone changes while it is unlinked is copied again, whole."""
    await mount.put(b"f", b"old")
    handle = await mount.open(b"f")
    changed = False

    async def change(call: Call) -> None:
        nonlocal changed
        if removes(call) and not changed:
            changed = True
            mount.store.put_now(key_of(b"f"), b"new")

    mount.store.delay = change
    await mount.unlink(b"f")
    assert changed
    assert await mount.read(handle) == b"new"
    assert mount.stored(b"f") is None


async def test_truncate_while_being_unlinked(mount: MountBench, nursery: trio.Nursery) -> None:
    """A file that is cut while its unlinking copies it keeps what is left."""
    size = 10 << 20
    mount.store.put_now(key_of(b"f"), bytes(size))
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    with mount.store.paused():
        nursery.start_soon(mount.unlink, b"f")
        await trio.testing.wait_all_tasks_blocked()
        await mount.fs.set_attributes(ino, AttributeChange(size=5), has_handle=True)
    await trio.testing.wait_all_tasks_blocked()
    assert await mount.read(handle) == bytes(5)
    assert mount.stored(b"f") is None


async def test_lookup_while_unlinking(mount: MountBench, nursery: trio.Nursery) -> None:
    """A file that was looked up while it was being unlinked can be made anew."""
    mount.store.put_now(key_of(b"f"), b"x")

    async def look_first(call: Call) -> None:
        if removes(call):
            mount.store.delay = None
            await mount.stat(b"f")

    mount.store.delay = look_first
    await mount.unlink(b"f")
    await mount.put(b"f", b"new")
    assert mount.stored(b"f") == b"new"


async def test_open_of_a_file_unlinked_meanwhile(mount: MountBench, nursery: trio.Nursery) -> None:
    """An open that is overtaken by an unlink is ESTALE, and its O_TRUNC makes nothing."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    results: list[object] = []

    async def open_it() -> None:
        try:
            results.append(await mount.fs.open(ino, os.O_RDWR | os.O_TRUNC))
        except StaleFile as failure:
            results.append(failure)

    async def hold_stat(call: Call) -> None:
        if is_call("stat")(call):
            mount.store.delay = None
            await mount.unlink(b"f")
            mount.store.put_now(key_of(b"f"), b"another")

    mount.store.delay = hold_stat
    await open_it()
    assert isinstance(results[0], StaleFile)
    assert mount.stored(b"f") == b"another"


# --- Creating


async def test_exclusive_create_is_there_at_once(mount: MountBench) -> None:
    """O_EXCL makes the object at open, empty, and only where there is none."""
    handle, _ = await mount.create(b"lock", os.O_WRONLY | os.O_EXCL)
    assert mount.stored(b"lock") == b""
    with pytest.raises(EntryExists):
        await mount.create(b"lock", os.O_WRONLY | os.O_EXCL)
    await mount.fs.write(handle, 0, b"pid")
    await mount.close(handle)
    assert mount.stored(b"lock") == b"pid"


async def test_exclusive_create_against_others(mount: MountBench) -> None:
    """O_EXCL fails where another client was first, though nobody here has heard of it."""
    mount.store.put_now(key_of(b"lock"), b"theirs")
    with pytest.raises(EntryExists):
        await mount.create(b"lock", os.O_WRONLY | os.O_EXCL)
    assert mount.stored(b"lock") == b"theirs"


async def test_exclusive_create_of_unstored_name(mount: MountBench) -> None:
    """O_EXCL fails on a file that is being written here and is not stored yet."""
    handle, _ = await mount.create(b"f")
    with pytest.raises(EntryExists):
        await mount.create(b"f", os.O_WRONLY | os.O_EXCL)
    await mount.close(handle)
    assert mount.stored(b"f") == b""


async def test_two_creators(mount: MountBench) -> None:
    """Two programs that create one name have the same file."""
    one, ino = await mount.create(b"f")
    two, other_ino = await mount.create(b"f")
    assert ino == other_ino
    await mount.fs.write(one, 0, b"abc")
    assert await mount.read(two) == b"abc"


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_EXCL])
@pytest.mark.parametrize("is_open", [False, True])
async def test_create_after_foreign_removal(mount: MountBench, flags: int, is_open: bool) -> None:
    """A name that someone else removed can be made anew, though the old file is still in use."""
    await mount.put(b"f", b"old")
    old_ino = (await mount.stat(b"f")).ino
    old = await mount.open(b"f", os.O_RDONLY) if is_open else None
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"f")
    handle, ino = await mount.create(b"f", flags)
    assert ino != old_ino
    await mount.fs.write(handle, 0, b"new")
    await mount.close(handle)
    assert mount.stored(b"f") == b"new"
    if old is not None:
        await mount.close(old)
    with pytest.raises(StaleFile):
        await mount.fs.open(old_ino, os.O_RDONLY)


@FAILS
async def test_given_up_new_file_is_gone(mount: MountBench) -> None:
    """A new file that could not be stored is not listed, and can be made again."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.store.fail_next(PermissionDenied("no"), is_apply)
    with pytest.raises(PermissionDenied):
        await mount.fs.flush(handle)
    await mount.fs.release(handle)
    assert await mount.names() == []
    assert mount.fs.dirty_bytes() == 0
    await mount.put(b"f", b"again")
    assert mount.stored(b"f") == b"again"


async def test_make_file(mount: MountBench) -> None:
    """mknod of a regular file makes an empty object, or is EEXIST."""
    await mount.fs.make_file(ROOT_INO, b"f")
    assert mount.stored(b"f") == b""
    with pytest.raises(EntryExists):
        await mount.fs.make_file(ROOT_INO, b"f")


async def test_create_of_impossible_name(mount: MountBench) -> None:
    """A name that no object has is refused."""
    with pytest.raises(InvalidCall):
        await mount.create(b".snap")


async def test_open_directory_as_file(mount: MountBench) -> None:
    """A directory cannot be opened for reading or truncated: EISDIR."""
    with pytest.raises(IsDirectory):
        await mount.fs.open(ROOT_INO, os.O_RDONLY)
    with pytest.raises(IsDirectory):
        await mount.fs.set_attributes(ROOT_INO, AttributeChange(size=0), has_handle=False)


# --- Consistency


async def test_close_to_open(mount: MountBench) -> None:
    """An open sees the size and content that others stored before it."""
    await mount.put(b"f", b"old")
    attributes = await mount.stat(b"f")
    mount.store.put_now(key_of(b"f"), b"newer")
    opened = await mount.fs.open(attributes.ino, os.O_RDONLY)
    assert not opened.keeps_pages
    assert (await mount.fs.get_attributes(attributes.ino)).size == 5
    assert await mount.read(opened.handle) == b"newer"


async def test_own_writes_keep_the_kernels_pages(mount: MountBench) -> None:
    """The kernel keeps its pages over an open when only we have changed the object."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    await mount.fs.set_attributes(ino, AttributeChange(mtime_ns=NS_PER_S), has_handle=False)
    assert (await mount.fs.open(ino, os.O_RDONLY)).keeps_pages


async def test_foreign_change_of_open_file_is_seen(mount: MountBench) -> None:
    """A read that finds another version has the kernel drop its pages."""
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f", os.O_RDONLY)
    ino = (await mount.stat(b"f")).ino
    mount.store.put_now(key_of(b"f"), b"xyz")
    assert await mount.read(handle) == b"xyz"
    assert mount.invalidated == [ino]


@FAILS
async def test_no_silent_overwrite(mount: MountBench) -> None:
    """A close onto an object that someone else changed is ESTALE and overwrites nothing."""
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"x")
    mount.store.put_now(key_of(b"f"), b"theirs")
    with pytest.raises(VersionConflict):
        await mount.close(handle)
    assert mount.stored(b"f") == b"theirs"
    assert await mount.get(b"f") == b"theirs"
    assert mount.fs.dirty_bytes() == 0


async def test_attributes_of_removed_object(mount: MountBench) -> None:
    """stat of an object that someone removed is ESTALE, fstat of an open one goes on."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(StaleFile):
        await mount.fs.get_attributes(ino)
    mount.store.put_now(key_of(b"f"), b"abc")
    handle = await mount.open(b"f")
    mount.store.remove_now(key_of(b"f"))
    assert (await mount.fs.get_attributes(ino)).size == 3
    await mount.close(handle)


async def test_truncating_open_is_atomic(mount: MountBench) -> None:
    """A rewritten file has its old content in the store until close, then the new."""
    await mount.put(b"f", b"old content")
    mount.store.changes.clear()
    handle = await mount.open(b"f", os.O_WRONLY | os.O_TRUNC)
    assert (await mount.stat(b"f")).size == 0
    await mount.fs.write(handle, 0, b"new")
    assert mount.stored(b"f") == b"old content"
    await mount.close(handle)
    [(_, change)] = mount.store.changes
    assert change.steps == (WriteFull(b"new"),)


async def test_append_handle(mount: MountBench) -> None:
    """A handle with O_APPEND writes at the end, after what others have appended."""
    await mount.put(b"log", b"one\n")
    handle = await mount.open(b"log", os.O_WRONLY | os.O_APPEND)
    await mount.fs.write(handle, 0, b"three\n")
    mount.store.put_now(key_of(b"log"), b"one\ntwo\n")
    await mount.close(handle)
    assert mount.stored(b"log") == b"one\ntwo\nthree\n"


# --- Errors, once a handle


@FAILS
async def test_each_open_handle_hears_once(mount: MountBench) -> None:
    """Each handle that was open at a failed flush hears of it once, a later one does not."""
    await mount.put(b"f", b"abc")
    one, two = await mount.open(b"f"), await mount.open(b"f")
    await mount.fs.write(one, 0, b"x")
    mount.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await mount.fs.sync(one)
    late = await mount.open(b"f")
    await mount.fs.sync(one)
    await mount.fs.sync(late)
    with pytest.raises(NoSpace):
        await mount.fs.flush(two)
    for handle in (one, two, late):
        await mount.close(handle)
    assert mount.stored(b"f") == b"xbc"


@FAILS
async def test_lazy_failure_of_stored_file_is_heard(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """With flush=lazy a write-back that failed for good after close is heard at the next one."""
    mount = await started(nursery, flush=FlushMode.LAZY)
    mount.store.put_now(key_of(b"f"), b"abc")
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"x")
    await mount.close(handle)
    mount.store.put_now(key_of(b"f"), b"theirs")
    await trio.sleep(10)
    handle = await mount.open(b"f")
    with pytest.raises(VersionConflict):
        await mount.close(handle)
    await mount.close(await mount.open(b"f"))


@FAILS
async def test_next_opener_is_not_told_what_close_has_told(mount: MountBench) -> None:
    """A failure that close reported is not reported to the next opener again."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.store.is_full = True
    with pytest.raises(NoSpace):
        await mount.close(handle)
    mount.store.is_full = False
    handle = await mount.open(b"f")
    await mount.close(handle)
    assert mount.stored(b"f") == b"abc"


@FAILS
async def test_sync_mode_write_fails(nursery: trio.Nursery) -> None:
    """With flush=sync the write itself raises what its flush met."""
    mount = await started(nursery, flush=FlushMode.SYNC)
    handle, _ = await mount.create(b"f")
    mount.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await mount.fs.write(handle, 0, b"abc")
    await mount.close(handle)
    assert mount.stored(b"f") == b"abc"


async def test_lazy_close_does_not_wait(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """With flush=lazy close returns at once, and the bytes are stored a little later."""
    mount = await started(nursery, flush=FlushMode.LAZY)
    await mount.put(b"f", b"abc")
    assert mount.stored(b"f") is None
    assert await mount.get(b"f") == b"abc"
    assert await mount.names() == [b"f"]
    await trio.sleep(10)
    assert mount.stored(b"f") == b"abc"
    assert mount.fs.unwritten() == []


async def test_unanswered_close_ends(
    mount: MountBench, autojump_clock: trio.testing.MockClock
) -> None:
    """close(2) ends with an error once nothing was acknowledged for the timeout."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    with mount.store.paused():
        with pytest.raises(DeadlineExceeded):
            await mount.fs.flush(handle)
        assert trio.current_time() == pytest.approx(30, abs=2)


@FAILS
async def test_flush_all(mount: MountBench) -> None:
    """At the end everything is stored, and the first failure is raised with the rest stored."""
    handles = [(await mount.create(name))[0] for name in (b"a", b"b", b"c")]
    for handle in handles:
        await mount.fs.write(handle, 0, b"abc")
    assert mount.fs.dirty_bytes() == 9
    assert sorted(mount.fs.unwritten()) == ["a", "b", "c"]
    mount.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await mount.fs.flush_all()
    assert len(mount.fs.unwritten()) == 1
    await mount.fs.flush_all()
    assert mount.fs.unwritten() == []
    assert mount.fs.dirty_bytes() == 0


async def test_sync_directory(mount: MountBench) -> None:
    """fsync of a directory stores the files in it."""
    handle, _ = await mount.create(b"a")
    await mount.fs.write(handle, 0, b"abc")
    directory = mount.fs.open_directory(ROOT_INO)
    await mount.fs.sync_directory(directory)
    assert mount.stored(b"a") == b"abc"


# --- Attributes


async def test_truncate_by_name_is_stored_on_return(mount: MountBench) -> None:
    """truncate(2) returns when the store has the new size."""
    await mount.put(b"f", b"abcdef")
    await mount.truncate(b"f", 2)
    assert mount.stored(b"f") == b"ab"
    await mount.truncate(b"f", 4)
    assert mount.stored(b"f") == b"ab\0\0"
    await mount.truncate(b"f", 4)
    assert mount.stored(b"f") == b"ab\0\0"


async def test_truncate_by_handle_waits_for_close(mount: MountBench) -> None:
    """ftruncate(2) is stored by the close, in one operation with the writes."""
    await mount.put(b"f", b"abcdef")
    mount.store.changes.clear()
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_attributes(ino, AttributeChange(size=2), has_handle=True)
    await mount.fs.write(handle, 3, b"x")
    assert mount.stored(b"f") == b"abcdef"
    await mount.close(handle)
    assert mount.stored(b"f") == b"ab\0x"
    assert len(mount.store.changes) == 1


async def test_too_big_truncate(mount: MountBench) -> None:
    """A size beyond one object's limit is EFBIG, at once."""
    await mount.put(b"f", b"abc")
    with pytest.raises(FileTooBig):
        await mount.truncate(b"f", (128 << 20) + 1)
    assert await mount.get(b"f") == b"abc"


async def test_mtime(mount: MountBench) -> None:
    """An mtime is stored at once for a stored file, with the flush for one that is written."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    change = AttributeChange(mtime_ns=1_400_000_000 * NS_PER_S)
    await mount.fs.set_attributes(ino, change, has_handle=False)
    found = mount.store.stat_now(key_of(b"f"))
    assert found is not None
    assert found.mtime_s == 1_400_000_000
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"x")
    change = AttributeChange(mtime_ns=1_300_000_000 * NS_PER_S)
    attributes = await mount.fs.set_attributes(ino, change, has_handle=True)
    assert attributes.mtime_ns == 1_300_000_000 * NS_PER_S
    await mount.close(handle)
    assert (await mount.stat(b"f")).mtime_ns == 1_300_000_000 * NS_PER_S
    found = mount.store.stat_now(key_of(b"f"))
    assert found is not None
    assert found.mtime_s == 1_300_000_000


async def test_mtime_survives_setfattr(mount: MountBench) -> None:
    """Setting an xattr leaves the mtime."""
    mount.store.put_now(key_of(b"f"), b"abc", mtime_s=1_234_567_890)
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    assert (await mount.stat(b"f")).mtime_ns == 1_234_567_890 * NS_PER_S


@pytest.mark.expects_log("chmod and chown have no effect")
async def test_modes_are_the_mounts(mount: MountBench) -> None:
    """chmod and chown succeed without effect."""
    await mount.put(b"f", b"")
    ino = (await mount.stat(b"f")).ino
    found = await mount.fs.set_attributes(ino, AttributeChange(mode=0o600), has_handle=False)
    assert stat.S_IMODE(found.mode) == 0o644
    await mount.fs.set_attributes(ino, AttributeChange(uid=1000), has_handle=False)


async def test_strict_modes(nursery: trio.Nursery) -> None:
    """With strict_modes chmod to another mode is EPERM, to the same it is not."""
    mount = await started(nursery, view=ViewConfig(pool=b"assets", has_strict_modes=True))
    await mount.put(b"f", b"")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_attributes(ino, AttributeChange(mode=0o644), has_handle=False)
    with pytest.raises(NotPermitted):
        await mount.fs.set_attributes(ino, AttributeChange(mode=0o600), has_handle=False)


# --- Renaming


async def test_rename(mount: MountBench) -> None:
    """A renamed file has its content, xattrs, omap and mtime under the new name only."""
    mount.store.put_now(key_of(b"a"), b"abc", mtime_s=1_234_567_890)
    steps = (SetXattr(b"color", b"blue"), SetOmap({b"k": b"v"}))
    mount.store.change_now(key_of(b"a"), Change(steps))
    ino = (await mount.stat(b"a")).ino
    await mount.rename(b"a", b"b")
    assert mount.stored(b"a") is None
    assert mount.stored(b"b") == b"abc"
    found = await mount.stat(b"b")
    assert (found.ino, found.mtime_ns) == (ino, 1_234_567_890 * NS_PER_S)
    assert mount.store.xattrs_now(key_of(b"b")) == {b"color": b"blue"}
    assert await mount.store.get_omap(key_of(b"b")) == {b"k": b"v"}
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"a")


async def test_rename_replaces(mount: MountBench) -> None:
    """The target's content, xattrs and mtime go, in one operation."""
    mount.store.put_now(key_of(b"b"), b"old")
    mount.store.change_now(key_of(b"b"), Change((SetXattr(b"old", b"1"),)))
    await mount.put(b"a", b"new")
    mount.store.changes.clear()
    await mount.rename(b"a", b"b")
    assert mount.stored(b"b") == b"new"
    assert mount.store.xattrs_now(key_of(b"b")) == {}
    assert [key.name for key, _ in mount.store.changes] == [b"b", b"a"]


async def test_rename_noreplace(mount: MountBench) -> None:
    """RENAME_NOREPLACE onto a name that exists is EEXIST, stored or not."""
    await mount.put(b"a", b"1")
    mount.store.put_now(key_of(b"b"), b"2")
    handle, _ = await mount.create(b"c")
    for target in (b"b", b"c"):
        with pytest.raises(EntryExists):
            await mount.rename(b"a", target, may_replace=False)
    await mount.rename(b"a", b"d", may_replace=False)
    assert mount.stored(b"d") == b"1"
    await mount.close(handle)


async def test_rename_of_nothing(mount: MountBench) -> None:
    """Renaming what is not there is ENOENT, and onto itself nothing."""
    with pytest.raises(NoSuchEntry):
        await mount.rename(b"a", b"b")
    await mount.put(b"a", b"1")
    await mount.rename(b"a", b"a")
    assert mount.stored(b"a") == b"1"


async def test_rename_stores_what_was_written(mount: MountBench) -> None:
    """What was written before a rename is under the new name on return, the rest after close."""
    handle, _ = await mount.create(b"tmp")
    await mount.fs.write(handle, 0, b"abc")
    await mount.rename(b"tmp", b"f")
    assert mount.stored(b"f") == b"abc"
    assert mount.stored(b"tmp") is None
    await mount.fs.write(handle, 3, b"def")
    await mount.close(handle)
    assert mount.stored(b"f") == b"abcdef"
    assert mount.stored(b"tmp") is None


async def test_write_during_rename(mount: MountBench, nursery: trio.Nursery) -> None:
    """What is written while a rename is under way is stored under the new name."""
    await mount.put(b"a", b"0123")
    handle = await mount.open(b"a")
    with mount.store.paused():
        nursery.start_soon(mount.rename, b"a", b"b")
        await trio.testing.wait_all_tasks_blocked()
        await mount.fs.write(handle, 2, b"XY")
        nursery.start_soon(mount.fs.sync, handle)
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    assert mount.stored(b"b") == b"01XY"
    assert mount.stored(b"a") is None
    await mount.close(handle)


async def test_rename_over_an_open_file(mount: MountBench) -> None:
    """Whoever has the replaced file open goes on with its content, unseen by others."""
    await mount.put(b"a", b"new")
    await mount.put(b"b", b"old content")
    handle = await mount.open(b"b")
    await mount.fs.write(handle, 0, b"OLD")
    await mount.rename(b"a", b"b")
    assert await mount.read(handle) == b"OLD content"
    await mount.fs.write(handle, 11, b"!")
    assert await mount.get(b"b") == b"new"
    await mount.close(handle)
    assert mount.stored(b"b") == b"new"
    assert mount.fs.dirty_bytes() == 0


async def test_rename_over_an_unstored_file(mount: MountBench) -> None:
    """A replaced file that was never stored does not come back with its close."""
    await mount.put(b"a", b"new")
    handle, _ = await mount.create(b"b")
    await mount.fs.write(handle, 0, b"old")
    await mount.rename(b"a", b"b")
    assert await mount.read(handle) == b"old"
    await mount.close(handle)
    assert mount.stored(b"b") == b"new"


async def test_truncated_and_renamed(mount: MountBench) -> None:
    """A file that is being rewritten and renamed is stored whole under the new name."""
    await mount.put(b"a", b"old content")
    handle = await mount.open(b"a", os.O_WRONLY | os.O_TRUNC)
    await mount.fs.write(handle, 0, b"new")
    await mount.rename(b"a", b"b")
    assert mount.stored(b"b") == b"new"
    await mount.close(handle)
    assert await mount.names() == [b"b"]


async def test_large_rename(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond one operation's size is renamed whole, in pieces."""
    monkeypatch.setattr("radosmount.vfs.renaming.PIECE_BYTES", 4)
    mount = await started(nursery, store=MemoryStore(Limits(1000, 8)))
    mount.store.put_now(key_of(b"a"), b"01234567")
    mount.store.change_now(key_of(b"a"), Change((Write(8, b"89"),)))
    await mount.rename(b"a", b"b")
    assert mount.stored(b"b") == b"0123456789"
    assert mount.stored(b"a") is None


async def test_rename_of_a_changing_file(mount: MountBench) -> None:
    """A source that someone changes meanwhile is copied again; what they wrote is not lost."""
    await mount.put(b"a", b"old")

    async def change(call: Call) -> None:
        if removes(call) and call.key == key_of(b"a"):
            mount.store.delay = None
            mount.store.put_now(key_of(b"a"), b"theirs")

    mount.store.delay = change
    await mount.rename(b"a", b"b")
    assert mount.stored(b"b") == b"theirs"
    assert mount.stored(b"a") is None
    assert await mount.get(b"b") == b"theirs"


async def test_rename_of_a_file_changed_before(mount: MountBench) -> None:
    """A file that someone changed before its rename shows that in size and pages."""
    await mount.put(b"a", b"old")
    handle = await mount.open(b"a", os.O_RDONLY)
    ino = (await mount.stat(b"a")).ino
    mount.store.put_now(key_of(b"a"), b"theirs")
    await mount.rename(b"a", b"b")
    assert await mount.read(handle) == b"theirs"
    assert not (await mount.fs.open(ino, os.O_RDONLY)).keeps_pages


async def test_rename_fails(mount: MountBench) -> None:
    """A rename that the store refuses leaves both files as they were."""
    await mount.put(b"a", b"1")
    await mount.put(b"b", b"2")
    mount.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await mount.rename(b"a", b"b")
    assert await mount.get(b"a") == b"1"
    assert await mount.get(b"b") == b"2"
    await mount.rename(b"a", b"b")
    assert await mount.get(b"b") == b"1"


async def test_xattr_waits_for_a_rename(mount: MountBench, nursery: trio.Nursery) -> None:
    """An xattr that is set while its file is renamed reaches the new name, past no flush."""
    await mount.put(b"a", b"0123")
    ino = (await mount.stat(b"a")).ino
    handle = await mount.open(b"a")
    with mount.store.paused():
        nursery.start_soon(mount.rename, b"a", b"b")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(mount.fs.set_xattr, ino, b"user.color", b"blue")
        change = AttributeChange(mtime_ns=1_400_000_000 * NS_PER_S)
        nursery.start_soon(mount.fs.set_attributes, ino, change, True)
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    await mount.fs.write(handle, 0, b"X")
    await mount.close(handle)
    assert mount.stored(b"b") == b"X123"
    assert mount.store.xattrs_now(key_of(b"b")) == {b"color": b"blue"}
    assert mount.stored(b"a") is None


async def test_mtime_waits_for_an_unlink(mount: MountBench, nursery: trio.Nursery) -> None:
    """An mtime that arrives while its file is unlinked does not touch the name's next file."""
    await mount.put(b"a", b"0123")
    ino = (await mount.stat(b"a")).ino
    errors: list[Exception] = []

    async def touch() -> None:
        change = AttributeChange(mtime_ns=1_400_000_000 * NS_PER_S)
        try:
            await mount.fs.set_attributes(ino, change, has_handle=False)
        except StaleFile as failure:
            errors.append(failure)

    async def make_again(call: Call) -> None:
        if not removes(call):
            mount.store.delay = None
            mount.store.put_now(key_of(b"a"), b"next", mtime_s=1_500_000_000)

    with mount.store.paused():
        nursery.start_soon(mount.unlink, b"a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(touch)
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    assert len(errors) == 1


# --- Pools and permissions


def two_pools() -> MemoryStore:
    store = MemoryStore(pools=(b"assets", b"music"))
    store.add_pool(b"images", frozenset({"rbd"}))
    return store


async def test_root_of_all_pools(nursery: trio.Nursery) -> None:
    """Without a pool in the source every pool is a directory of the root."""
    mount = await started(nursery, store=two_pools(), view=ViewConfig())
    assert sorted(await mount.names()) == [b"assets", b"images", b"music"]
    pool = await mount.fs.lookup(ROOT_INO, b"assets")
    assert stat.S_ISDIR(pool.mode)
    opened, _ = await mount.fs.create(pool.ino, b"f", os.O_WRONLY | os.O_CREAT)
    await mount.fs.write(opened.handle, 0, b"abc")
    await mount.close(opened.handle)
    assert mount.stored(b"f") == b"abc"
    assert await mount.names(pool.ino) == [b"f"]
    with pytest.raises(NoSuchEntry):
        await mount.fs.lookup(ROOT_INO, b"nothing")


async def test_nothing_is_made_in_the_root_of_pools(nursery: trio.Nursery) -> None:
    """Files cannot be made, removed or renamed among the pools: EPERM."""
    mount = await started(nursery, store=two_pools(), view=ViewConfig())
    with pytest.raises(NotPermitted):
        await mount.create(b"f")
    with pytest.raises(NotPermitted):
        await mount.unlink(b"assets")
    with pytest.raises(NotPermitted):
        await mount.rename(b"assets", b"x")


async def test_rename_between_pools(nursery: trio.Nursery) -> None:
    """A rename from pool to pool is EXDEV, so that mv copies."""
    mount = await started(nursery, store=two_pools(), view=ViewConfig())
    one = (await mount.fs.lookup(ROOT_INO, b"assets")).ino
    two = (await mount.fs.lookup(ROOT_INO, b"music")).ino
    mount.store.put_now(key_of(b"f"), b"abc")
    with pytest.raises(CrossPool):
        await mount.fs.rename(one, b"f", two, b"f", True)


async def test_foreign_pool_is_read_only(nursery: trio.Nursery) -> None:
    """A pool of rbd is read-only, unless it is named."""
    store = two_pools()
    mount = await started(nursery, store=store, view=ViewConfig())
    images = (await mount.fs.lookup(ROOT_INO, b"images")).ino
    with pytest.raises(ReadOnly):
        await mount.fs.create(images, b"f", os.O_WRONLY)
    named = await started(
        nursery, store=store, view=ViewConfig(writable_pools=frozenset({b"images"}))
    )
    images = (await named.fs.lookup(ROOT_INO, b"images")).ino
    await named.fs.create(images, b"f", os.O_WRONLY)


async def test_read_only_mount(nursery: trio.Nursery) -> None:
    """With `ro` nothing can be opened for writing, made, removed or renamed: EROFS."""
    mount = await started(nursery, view=ViewConfig(pool=b"assets", is_read_only=True))
    mount.store.put_now(key_of(b"f"), b"abc")
    assert await mount.get(b"f") == b"abc"
    for attempt in (
        mount.open(b"f", os.O_WRONLY),
        mount.create(b"g"),
        mount.unlink(b"f"),
        mount.rename(b"f", b"g"),
        mount.truncate(b"f", 0),
    ):
        with pytest.raises(ReadOnly):
            await attempt


async def test_no_write_cap(nursery: trio.Nursery) -> None:
    """Without a write cap opening for writing is EACCES, and reading works."""
    store = MemoryStore()
    store.put_now(key_of(b"f"), b"abc")
    store.set_caps(1, is_readable=True, is_writable=False)
    mount = await started(nursery, store=store)
    assert await mount.get(b"f") == b"abc"
    with pytest.raises(AccessDenied):
        await mount.open(b"f", os.O_RDWR)


async def test_no_such_pool(nursery: trio.Nursery) -> None:
    """A source that names a pool that is not there does not mount."""
    with pytest.raises(MountError, match="there is no pool 'x'"):
        await started(nursery, view=ViewConfig(pool=b"x"))


# --- Xattrs


async def test_xattrs_are_those_of_rados(mount: MountBench) -> None:
    """`user.KEY` is the RADOS xattr KEY, both ways."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue"}
    mount.store.change_now(key_of(b"f"), Change((SetXattr(b"size", b"XL"),)))
    assert await mount.fs.get_xattr(ino, b"user.size") == b"XL"
    assert sorted(await mount.fs.list_xattrs(ino)) == [b"user.color", b"user.size"]
    await mount.fs.remove_xattr(ino, b"user.color")
    assert mount.store.xattrs_now(key_of(b"f")) == {b"size": b"XL"}


async def test_xattr_of_unstored_file_goes_with_it(mount: MountBench) -> None:
    """An xattr of a new file reaches the store in one operation with the content."""
    handle, ino = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    assert await mount.fs.get_xattr(ino, b"user.color") == b"blue"
    await mount.close(handle)
    [(_, change)] = mount.store.changes
    assert change.steps == (WriteFull(b"abc"), SetXattr(b"color", b"blue"))
    assert change.guard is Existence.ABSENT


async def test_xattr_of_dirty_file(mount: MountBench) -> None:
    """An xattr that is set between write and close does not make the close a conflict."""
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.write(handle, 0, b"x")
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    await mount.close(handle)
    assert mount.stored(b"f") == b"xbc"
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue"}


async def test_lost_xattr_is_no_conflict(mount: MountBench) -> None:
    """A setfattr whose reply was lost does not make the close of a written file a conflict."""
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.write(handle, 0, b"xyz1")
    mount.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    with pytest.raises(TimedOut):
        await mount.fs.set_xattr(ino, b"user.color", b"blue")
    await mount.close(handle)
    assert mount.stored(b"f") == b"xyz1"
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue"}


async def test_xattr_of_listed_file(mount: MountBench) -> None:
    """An xattr can be set on a file that was only listed so far."""
    mount.store.put_now(key_of(b"f"), b"abc")
    directory = mount.fs.open_directory(ROOT_INO)
    entry = await mount.fs.list_entry(directory, 0)
    assert entry is not None
    mount.fs.take_entry(entry, is_taken=True)
    await mount.fs.set_xattr(entry.attributes.ino, b"user.color", b"blue")
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue"}
    assert (await mount.fs.get_attributes(entry.attributes.ino)).size == 3


async def test_xattr_during_flush(mount: MountBench, nursery: trio.Nursery) -> None:
    """An xattr that is set while the file is being stored waits, and is not lost."""
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    with mount.store.paused():
        await mount.fs.write(handle, 0, b"x")
        nursery.start_soon(mount.fs.sync, handle)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(mount.fs.set_xattr, ino, b"user.color", b"blue")
        await trio.testing.wait_all_tasks_blocked()
        await mount.fs.write(handle, 1, b"y")
    await trio.testing.wait_all_tasks_blocked()
    await mount.close(handle)
    assert mount.stored(b"f") == b"xyc"
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue"}


async def test_xattr_of_removed_object(mount: MountBench) -> None:
    """An xattr of an object that someone removed is ESTALE."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(StaleFile):
        await mount.fs.set_xattr(ino, b"user.color", b"blue")
    with pytest.raises(StaleFile):
        await mount.fs.get_xattr(ino, b"user.color")


async def test_xattr_of_directory(mount: MountBench) -> None:
    """A directory has no xattrs, and takes none."""
    assert await mount.fs.list_xattrs(ROOT_INO) == []
    with pytest.raises(Unsupported):
        await mount.fs.set_xattr(ROOT_INO, b"user.a", b"b")


# --- Listing


async def test_listing_has_unstored_files_once(mount: MountBench) -> None:
    """A new file is listed once, stored or not, also while it is being stored."""
    mount.store.put_now(key_of(b"stored"), b"")
    handle, _ = await mount.create(b"new")
    await mount.fs.write(handle, 0, b"abc")
    directory = mount.fs.open_directory(ROOT_INO)
    first = await mount.fs.list_entry(directory, 0)
    assert first is not None
    mount.fs.take_entry(first, is_taken=False)
    await mount.close(handle)
    second = await mount.fs.list_entry(directory, 1)
    assert second is not None
    assert {first.name, second.name} == {b"stored", b"new"}
    assert await mount.fs.list_entry(directory, 2) is None
    assert sorted(await mount.names()) == [b"new", b"stored"]


async def test_listing_failure_is_an_error(mount: MountBench) -> None:
    """A listing that the store cannot finish is an error, never a short list."""
    mount.store.put_now(key_of(b"a"), b"")
    mount.store.fail_next(TimedOut("no"), is_call("list_objects"), skip_count=1)
    directory = mount.fs.open_directory(ROOT_INO)
    with pytest.raises(TimedOut):
        await mount.fs.list_entry(directory, 0)
    with pytest.raises(TimedOut):
        await mount.fs.list_entry(directory, 0)
    await mount.fs.release_directory(directory)


async def test_strange_names(mount: MountBench) -> None:
    """Every name that an object has is listed, and its file found."""
    names = [b"a b", b"-rf", b"\xff\xfe", b"x\ny", b".", b"..", b"d/", b"a//b", b"n" * 255]
    for name in names:
        mount.store.put_now(key_of(name), name)
    listed = await mount.names()
    assert len(listed) == len(names)
    assert {await mount.get(name) for name in listed} == set(names)


async def test_space(mount: MountBench) -> None:
    """df shows the pool's stored bytes and objects."""
    await mount.put(b"f", b"abc")
    space = await mount.fs.space()
    assert space.object_count == 1
    assert space.total_bytes - space.available_bytes == 3


# --- Memory


async def test_forgotten_files_take_no_memory(mount: MountBench) -> None:
    """An inode goes when the kernel forgets it and nothing of it is open or unstored."""
    before = len(mount.fs._nodes)
    handle, ino = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.fs.forget([(ino, 1)])
    assert await mount.read(handle) == b"abc"
    await mount.close(handle)
    assert len(mount.fs._nodes) == before


async def test_late_write_cannot_resurrect_with_last_writer(
    nursery: trio.Nursery,
) -> None:
    """With conflict=last-writer too, what was unlinked stays away."""
    mount = await started(nursery, conflict=ConflictMode.LAST_WRITER)
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f", os.O_RDWR | os.O_TRUNC)
    await mount.fs.write(handle, 0, b"xyz")
    await mount.unlink(b"f")
    await mount.close(handle)
    assert mount.stored(b"f") is None


async def test_two_who_sync_at_once(mount: MountBench, nursery: trio.Nursery) -> None:
    """Two handles that sync one file at the same time both succeed."""
    one, _ = await mount.create(b"f")
    two = await mount.open(b"f")
    await mount.fs.write(one, 0, b"abc")
    with mount.store.paused():
        nursery.start_soon(mount.fs.sync, one)
        nursery.start_soon(mount.fs.sync, two)
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    assert mount.stored(b"f") == b"abc"
