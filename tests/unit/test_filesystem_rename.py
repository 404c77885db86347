"""Renaming in the file system, over a memory store."""

import os

import pytest
import trio
import trio.testing

from radosmount.errors import (
    EntryExists,
    NoSpace,
    NoSuchEntry,
    StaleFile,
    TimedOut,
)
from radosmount.store.interface import (
    Change,
    Limits,
    SetOmap,
    SetXattr,
    Write,
)
from radosmount.store.memory import Call, MemoryStore
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from tests.support.mounts import MountBench, started
from tests.support.stores import is_apply, key_of, makes, noted, removes


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


async def test_rename_with_a_large_omap(mount: MountBench) -> None:
    """An omap beyond one page of RADOS goes along, whole."""
    entries = {b"k%04d" % number: b"v" for number in range(2500)}
    mount.store.put_now(key_of(b"a"), b"abc")
    mount.store.change_now(key_of(b"a"), Change((SetOmap(entries),)))
    with noted(mount.store) as calls:
        await mount.rename(b"a", b"b")
    assert calls == ["inspect", "get_omap", "apply", "apply"]
    assert await mount.store.get_omap(key_of(b"b")) == entries


async def test_calls_of_a_rename(mount: MountBench) -> None:
    """The source is read in one call, copied in one and removed in one."""
    mount.store.put_now(key_of(b"a"), b"abc")
    mount.store.change_now(key_of(b"a"), Change((SetXattr(b"color", b"blue"),)))
    with noted(mount.store) as calls:
        await mount.rename(b"a", b"b")
    assert calls == ["inspect", "apply", "apply"]


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


async def test_rename_over_an_unstored_file_half_way(mount: MountBench) -> None:
    """Where the target is replaced and the source's removal has no answer, the target is what it
    was renamed from; what was not stored of the file that it was is gone with that."""
    mount.store.put_now(key_of(b"a"), b"source")
    mount.store.put_now(key_of(b"b"), b"target")
    handle = await mount.open(b"b", os.O_RDWR)
    await mount.fs.write(handle, 0, b"TAR")
    mount.store.fail_next(
        TimedOut("lost"), lambda call: removes(call) and call.key == key_of(b"a"), applied=True
    )
    with pytest.raises(TimedOut):
        await mount.rename(b"a", b"b")
    assert await mount.get(b"b") == b"source"
    assert await mount.read(handle) == b"TARget"
    await mount.close(handle)
    await mount.fs.flush_all()
    assert mount.stored(b"b") == b"source"
    assert mount.stored(b"a") is None


async def test_rename_over_an_unstored_file_with_a_lost_reply(mount: MountBench) -> None:
    """Whether the target is replaced is found out at once, not by the flush of what it had."""
    mount.store.put_now(key_of(b"a"), b"source")
    mount.store.put_now(key_of(b"b"), b"target")
    handle = await mount.open(b"b", os.O_RDWR)
    await mount.fs.write(handle, 0, b"TAR")
    mount.store.fail_next(TimedOut("lost"), removes, applied=True)
    await mount.rename(b"a", b"b")
    await mount.close(handle)
    await mount.fs.flush_all()
    assert await mount.get(b"b") == mount.stored(b"b") == b"source"
    assert mount.stored(b"a") is None


async def test_rename_over_a_new_file_with_a_lost_reply(
    mount: MountBench,
) -> None:
    """What stands there by then is replaced, though our own copy: the source need not be read
    again, which may fail, and leave the target in place of a file that is still to be stored."""
    mount.store.put_now(key_of(b"a"), b"source")
    handle, _ = await mount.create(b"b")
    await mount.fs.write(handle, 0, b"target")
    mount.store.fail_next(TimedOut("lost"), makes, applied=True)
    with noted(mount.store) as calls:
        await mount.rename(b"a", b"b")
    assert calls.count("inspect") == 1
    await mount.close(handle)
    await mount.fs.flush_all()
    assert mount.stored(b"b") == b"source"
    assert mount.stored(b"a") is None


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
            await mount.fs.set_attributes(ino, change)
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


async def test_opened_while_it_is_replaced(mount: MountBench, nursery: trio.Nursery) -> None:
    """Who opens the target while it is being replaced is told to look the name up again, as the
    kernel does by itself: a read never is ESTALE for it."""
    await mount.put(b"new", b"new content")
    mount.store.put_now(key_of(b"target"), b"old")
    ino = (await mount.stat(b"target")).ino
    refused = trio.Event()

    async def open_target() -> None:
        with pytest.raises(StaleFile):
            await mount.fs.open(ino, os.O_RDONLY)
        refused.set()

    async def open_before(call: Call) -> None:
        if call.method == "apply" and call.key == key_of(b"target"):
            mount.store.delay = None
            nursery.start_soon(open_target)
            await trio.testing.wait_all_tasks_blocked()
            assert not refused.is_set()

    mount.store.delay = open_before
    await mount.rename(b"new", b"target")
    await refused.wait()
    assert await mount.get(b"target") == b"new content"


async def test_read_while_it_is_replaced(mount: MountBench, nursery: trio.Nursery) -> None:
    """Who has the target open goes on with what it was, in content and size, though RADOS has the
    new one already; a stat or a look-up in that moment does not learn of it."""
    await mount.put(b"target", b"the old content")
    await mount.put(b"new", b"new")
    handle = await mount.open(b"target", os.O_RDONLY)
    ino = (await mount.stat(b"target")).ino
    found: list[bytes] = []

    async def read() -> None:
        found.append(await mount.read(handle))

    async def look_before(call: Call) -> None:
        if removes(call):  # the target is replaced by then, and the rename not over
            mount.store.delay = None
            nursery.start_soon(read)
            await mount.stat(b"target")
            await mount.fs.get_attributes(ino)
            await trio.testing.wait_all_tasks_blocked()
            assert not found

    mount.store.delay = look_before
    await mount.rename(b"new", b"target")
    await trio.testing.wait_all_tasks_blocked()
    assert found == [b"the old content"]
    assert (await mount.fs.get_attributes(ino)).size == len(b"the old content")
    await mount.close(handle)
    assert await mount.get(b"target") == b"new"


async def test_replaced_after_someone_else_has(mount: MountBench) -> None:
    """Who has it open goes on with what the other client made of it: whole, and known as that."""
    mount.store.put_now(key_of(b"target"), b"old")
    await mount.put(b"new", b"new content")
    handle = await mount.open(b"target", os.O_RDONLY)
    ino = (await mount.stat(b"target")).ino
    mount.store.put_now(key_of(b"target"), b"of someone else, and longer")
    await mount.rename(b"new", b"target")
    assert await mount.read(handle) == b"of someone else, and longer"
    assert (await mount.fs.get_attributes(ino)).size == len(b"of someone else, and longer")
    assert mount.invalidated == [ino]
    await mount.close(handle)


async def test_rename_beside_a_dead_object(
    mount: MountBench, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A rename of a file that the store does not answer about keeps no other one waiting."""
    for name in (b"dead", b"alive"):
        await mount.put(name, name)
    resumed = trio.Event()

    async def leave_unanswered(call: Call) -> None:
        if call.key == mount.key(b"dead"):
            await resumed.wait()

    mount.store.delay = leave_unanswered
    nursery.start_soon(mount.rename, b"dead", b"new")
    await trio.testing.wait_all_tasks_blocked()
    await mount.rename(b"alive", b"other")
    assert trio.current_time() < 1
    assert mount.stored(b"other") == b"alive"
    resumed.set()
    await trio.testing.wait_all_tasks_blocked()
    assert mount.stored(b"new") == b"dead"


async def test_renames_in_a_circle(mount: MountBench, nursery: trio.Nursery) -> None:
    """Renames that go round, all at once, do not wait for each other for ever."""
    names = [b"a", b"b", b"c"]
    for name in names:
        await mount.put(name, name)
    async with trio.open_nursery() as renaming:
        for old, new in zip(names, names[1:] + names[:1], strict=True):
            renaming.start_soon(mount.rename, old, new)
    assert set(await mount.names()) - {b".", b".."} <= set(names)


@pytest.mark.parametrize(("old", "new"), [(b"a", b"z"), (b"z", b"a")])
async def test_rename_behind_a_flush(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    old: bytes,
    new: bytes,
) -> None:
    """A rename waits as long as a flush goes on before it, be it the first of both names or not."""
    monkeypatch.setattr("radosmount.cache.extents.BLOCK_BYTES", 4)
    monkeypatch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 4)
    mount = await started(nursery, atomic_max_bytes=0)
    handle, _ = await mount.create(old)
    await mount.fs.write(handle, 0, bytes(100))

    async def take_a_while(call: Call) -> None:
        await trio.sleep(20 * is_apply(call))

    mount.store.delay = take_a_while
    nursery.start_soon(mount.fs.flush, handle)
    await trio.testing.wait_all_tasks_blocked()
    await mount.rename(old, new)
    assert mount.stored(new) == bytes(100)
    assert trio.current_time() > 120
