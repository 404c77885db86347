"""Extended attributes in the file system, over a memory store."""

import pytest
import trio
import trio.testing

from radosmount.errors import (
    StaleFile,
    TimedOut,
    Unsupported,
)
from radosmount.store.interface import (
    Change,
    Existence,
    SetXattr,
    WriteFull,
)
from radosmount.store.memory import Call
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.stores import is_apply, key_of


async def test_xattrs_are_those_of_rados(mount: MountBench) -> None:
    """`user.KEY` is the RADOS xattr KEY, both ways."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue"}
    mount.store.change_now(key_of(b"f"), Change((SetXattr(b"size", b"XL"),)))
    assert await mount.fs.get_xattr(ino, b"user.size") == b"XL"
    assert sorted(await mount.fs.list_xattrs(ino)) == [b"user.color", b"user.size"]
    await mount.fs.set_xattr(ino, b"user.color", None)
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


async def test_the_last_xattr_counts(mount: MountBench, nursery: trio.Nursery) -> None:
    """One that was set during the first flush waits for the next, and so does what replaces it."""
    handle, ino = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    is_sent, may_go_on = trio.Event(), trio.Event()

    async def hold(call: Call) -> None:
        if is_apply(call):
            is_sent.set()
            await may_go_on.wait()

    mount.store.delay = hold
    nursery.start_soon(mount.fs.sync, handle)
    await is_sent.wait()
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    may_go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    await mount.fs.set_xattr(ino, b"user.color", b"green")
    assert await mount.fs.get_xattr(ino, b"user.color") == b"green"
    await mount.close(handle)
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"green"}


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
