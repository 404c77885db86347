"""Names, creating and listing in the file system, over a memory store."""

import os
import stat

import pytest
import trio
import trio.testing

from radosmount.config import ConflictMode, NamesMode, ViewConfig
from radosmount.errors import (
    EntryExists,
    InvalidCall,
    IsDirectory,
    NoSuchEntry,
    NotDirectory,
    PermissionDenied,
    StaleFile,
    TimedOut,
)
from radosmount.store.interface import Usage
from radosmount.store.memory import Call
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench, started
from tests.support.stores import is_apply, is_call, key_of, removes

FAILS = pytest.mark.expects_log("is not stored|could not be stored")


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
    await mount.fs.set_attributes(ino, AttributeChange(size=4), handle)
    await mount.fs.set_attributes(ino, AttributeChange(mtime_ns=NS_PER_S), handle)
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
        await mount.fs.set_attributes(ino, AttributeChange(size=5), handle)
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
        await mount.fs.set_attributes(ROOT_INO, AttributeChange(size=0))


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


async def test_strange_names(nursery: trio.Nursery) -> None:
    """Every name that an object has is listed, and its file found."""
    mount = MountBench(nursery, view=ViewConfig(pool=b"assets", names=NamesMode.FLAT))
    await mount.fs.start()
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


async def test_space_of_a_monitor_that_has_just_begun(
    mount: MountBench, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows nothing yet, and says zero of all: what was known before is better."""
    await mount.put(b"f", b"abc")
    known = await mount.fs.space()

    async def usage() -> Usage:
        return Usage(0, 0, {})

    monkeypatch.setattr(mount.store, "usage", usage)
    mock_clock.jump(60)
    assert await mount.fs.space() == known


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
