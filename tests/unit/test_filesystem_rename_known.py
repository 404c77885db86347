"""Renaming what was just written: what the store is still asked for."""

import os

import pytest
import trio
import trio.testing

from radosmount.errors import NoSuchEntry, TimedOut
from radosmount.store.interface import Change, Inspection, ObjectKey, SetXattr, Write
from radosmount.store.memory import Call
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.renaming import KNOWN_FRESHNESS_S
from tests.support.mounts import MountBench
from tests.support.stores import is_apply, key_of, noted, removes

FAILS = pytest.mark.expects_log("is not stored|could not be stored")


class LookedUp:
    """A file that was written and closed, in front of its rename: the kernel looks it up."""

    def __init__(self, mount: MountBench) -> None:
        self.mount = mount
        self.lengths: list[int] = []  # of content that was asked for
        inspect = mount.store.inspect

        async def noted_inspect(key: ObjectKey, length: int) -> Inspection:
            self.lengths.append(length)
            return await inspect(key, length)

        mount.store.inspect = noted_inspect  # type: ignore[method-assign]

    async def rename(self, is_looked_up: bool = True) -> list[str]:
        """From `a` to `b`; the store's calls."""
        if is_looked_up:
            await self.mount.stat(b"a")
        with noted(self.mount.store) as calls:
            await self.mount.rename(b"a", b"b")
        assert self.mount.stored(b"a") is None
        return calls


@pytest.fixture
def looked_up(mount: MountBench, autojump_clock: trio.testing.MockClock) -> LookedUp:
    return LookedUp(mount)


async def test_rename_of_what_was_written(mount: MountBench, looked_up: LookedUp) -> None:
    """A file that was made and written here is renamed without reading it."""
    await mount.put(b"b", b"old")
    mount.store.change_now(key_of(b"b"), Change((SetXattr(b"old", b"1"),)))
    await mount.put(b"a", b"abc")
    mtime_ns = (await mount.stat(b"a")).mtime_ns
    assert await looked_up.rename() == ["apply", "apply"]
    assert mount.stored(b"b") == b"abc"
    assert mount.store.xattrs_now(key_of(b"b")) == {}
    assert (await mount.stat(b"b")).mtime_ns == mtime_ns
    assert await mount.get(b"b") == b"abc"


async def test_rename_of_an_empty_file(mount: MountBench, looked_up: LookedUp) -> None:
    """The same holds for nothing."""
    handle, _ = await mount.create(b"a")
    await mount.close(handle)
    assert await looked_up.rename() == ["apply", "apply"]
    assert mount.stored(b"b") == b""


async def test_rename_of_what_is_dirty(mount: MountBench, looked_up: LookedUp) -> None:
    """Bytes that no flush has taken are stored under the old name first, and not read back."""
    handle, _ = await mount.create(b"a")
    await mount.fs.write(handle, 0, b"abc")
    assert await looked_up.rename(is_looked_up=False) == ["apply", "apply", "apply"]
    assert mount.stored(b"b") == b"abc"
    await mount.fs.write(handle, 3, b"def")
    await mount.close(handle)
    assert mount.stored(b"b") == b"abcdef"


async def test_rename_of_a_rewritten_file(mount: MountBench, looked_up: LookedUp) -> None:
    """What is known to be without xattrs stays so while only we write; bytes count if whole."""
    await mount.put(b"a", b"0123")
    handle = await mount.open(b"a", os.O_WRONLY | os.O_TRUNC)
    await mount.fs.write(handle, 0, b"new")
    await mount.close(handle)
    assert await looked_up.rename() == ["apply", "apply"]
    assert mount.stored(b"b") == b"new"


async def test_rename_of_a_file_changed_in_part(mount: MountBench, looked_up: LookedUp) -> None:
    """What was kept does not count once a part of it was overwritten."""
    await mount.put(b"a", b"0123")
    handle = await mount.open(b"a")
    await mount.fs.write(handle, 1, b"X")
    await mount.close(handle)
    assert await looked_up.rename() == ["inspect", "apply", "apply"]
    assert mount.stored(b"b") == b"0X23"


async def test_rename_with_xattrs(mount: MountBench, looked_up: LookedUp) -> None:
    """Of a file that may have xattrs these are asked for, but not the content."""
    mount.store.put_now(key_of(b"a"), b"old")
    mount.store.change_now(key_of(b"a"), Change((SetXattr(b"color", b"blue"),)))
    handle = await mount.open(b"a", os.O_WRONLY | os.O_TRUNC)
    await mount.fs.write(handle, 0, b"new")
    await mount.close(handle)
    assert await looked_up.rename() == ["inspect", "apply", "apply"]
    assert looked_up.lengths == [0]
    assert mount.stored(b"b") == b"new"
    assert mount.store.xattrs_now(key_of(b"b")) == {b"color": b"blue"}


@pytest.mark.parametrize("is_stored", [False, True])
async def test_rename_with_our_xattrs(
    mount: MountBench, looked_up: LookedUp, is_stored: bool
) -> None:
    """An xattr that was set here goes along, set before the first flush or after it."""
    handle, ino = await mount.create(b"a")
    await mount.fs.write(handle, 0, b"abc")
    if is_stored:
        await mount.fs.sync(handle)
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    await mount.close(handle)
    assert await looked_up.rename() == ["inspect", "apply", "apply"]
    assert looked_up.lengths == [0]
    assert mount.stored(b"b") == b"abc"
    assert mount.store.xattrs_now(key_of(b"b")) == {b"color": b"blue"}


async def test_rename_after_o_excl_and_utimens(mount: MountBench, looked_up: LookedUp) -> None:
    """What mkstemp makes, and rsync sets the mtime of, is known to be our own work."""
    opened, found = await mount.fs.create(ROOT_INO, b"a", os.O_WRONLY | os.O_EXCL)
    await mount.fs.write(opened.handle, 0, b"abc")
    await mount.close(opened.handle)
    change = AttributeChange(mtime_ns=NS_PER_S)
    await mount.fs.set_attributes(found.ino, change)
    assert await looked_up.rename() == ["apply", "apply"]
    assert mount.stored(b"b") == b"abc"


async def test_rename_of_what_was_changed_elsewhere(mount: MountBench, looked_up: LookedUp) -> None:
    """A change elsewhere goes along: one before the look-up, and one right after it."""
    for is_before in (True, False):
        await mount.put(b"a", b"abc")
        if not is_before:
            await mount.stat(b"a")
        mount.store.change_now(key_of(b"a"), Change((Write(3, b"!"), SetXattr(b"k", b"v"))))
        calls = await looked_up.rename(is_looked_up=is_before)
        assert ("inspect" in calls[:1]) == is_before
        assert mount.stored(b"b") == b"abc!"
        assert mount.store.xattrs_now(key_of(b"b")) == {b"k": b"v"}
        await mount.unlink(b"b")


async def test_rename_of_what_was_removed_elsewhere(mount: MountBench, looked_up: LookedUp) -> None:
    """What is not there (any more) replaces nothing, though we hold its content."""
    await mount.put(b"b", b"old")
    await mount.put(b"a", b"abc")
    await trio.sleep(KNOWN_FRESHNESS_S)
    mount.store.remove_now(key_of(b"a"))
    with pytest.raises(NoSuchEntry):
        await looked_up.rename(is_looked_up=False)
    assert mount.stored(b"b") == b"old"


@FAILS
async def test_rename_after_a_lost_reply(mount: MountBench, looked_up: LookedUp) -> None:
    """A write whose reply was lost says nothing of who else was there: the object is asked."""
    handle, _ = await mount.create(b"a")
    await mount.fs.write(handle, 0, b"abc")
    mount.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    with pytest.raises(TimedOut):
        await mount.rename(b"a", b"b")
    mount.store.change_now(key_of(b"a"), Change((SetXattr(b"k", b"v"),)))
    assert "inspect" in await looked_up.rename(is_looked_up=False)
    assert mount.stored(b"b") == b"abc"
    assert mount.store.xattrs_now(key_of(b"b")) == {b"k": b"v"}
    with pytest.raises(TimedOut):
        await mount.close(handle)


async def test_rename_whose_last_reply_is_lost(mount: MountBench, looked_up: LookedUp) -> None:
    """Where the removal's reply is lost, the rename fails, and the new name is whole."""
    await mount.put(b"a", b"abc")
    await mount.stat(b"a")
    mount.store.fail_next(TimedOut("lost"), removes, applied=True)
    with pytest.raises(TimedOut):
        await mount.rename(b"a", b"b")
    assert await mount.names() == [b"b"]
    assert await mount.get(b"b") == b"abc"
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"a")


async def test_write_before_a_rename_from_held_bytes(
    mount: MountBench, looked_up: LookedUp, nursery: trio.Nursery
) -> None:
    """What a handle writes while an open target is copied stays on top of what is stored."""
    await mount.put(b"b", b"old")
    target = await mount.open(b"b")
    handle, _ = await mount.create(b"a")
    await mount.fs.write(handle, 0, b"0123")
    await mount.fs.sync(handle)

    async def write_first(call: Call) -> None:
        if call.method == "read":
            mount.store.delay = None
            await mount.fs.write(handle, 1, b"X")

    mount.store.delay = write_first
    await mount.rename(b"a", b"b")
    assert await mount.read(target) == b"old"
    assert mount.stored(b"b") == b"0123"
    await mount.close(handle)
    assert mount.stored(b"b") == b"0X23"
    await mount.close(target)
