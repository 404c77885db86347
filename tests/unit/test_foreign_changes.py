"""What someone else has changed since an open, and this mount has heard of before it writes."""

import os

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from radosmount.config import ConflictMode
from radosmount.errors import StaleFile, TimedOut, VersionConflict
from radosmount.store.interface import Change, ObjectKey, SetXattr
from radosmount.store.memory import Call, MemoryStore
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench, started
from tests.support.stores import is_apply, key_of

KEY = key_of(b"f")


class LateAnswers(MemoryStore):
    """What `apply` has done is heard of only after `answered`."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = trio.Event()

    async def apply(self, key: ObjectKey, change: Change) -> int:
        version = await super().apply(key, change)
        await self.answered.wait()
        return version


async def hear(mount: MountBench, how: str) -> None:
    if how == "stat":
        await mount.stat(b"f")
    elif how == "open":
        await mount.open(b"f", os.O_RDONLY)
    else:
        await mount.rename(b"f", b"g")


@pytest.mark.parametrize("how", ["stat", "open", "rename"])
async def test_no_silent_overwrite(mount: MountBench, how: str) -> None:
    """Who writes by a descriptor that was opened before hears ESTALE at once; by a new one it
    works."""
    name = b"g" if how == "rename" else b"f"
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    mount.store.put_now(KEY, b"theirs")
    await hear(mount, how)
    ino = (await mount.stat(name)).ino
    with pytest.raises(StaleFile):
        await mount.fs.write(old, 0, b"mine!!")
    with pytest.raises(StaleFile):
        await mount.fs.set_attributes(ino, AttributeChange(size=1), old)
    await mount.close(old)
    assert mount.store.read_now(key_of(name)) == b"theirs"
    new = await mount.open(name)
    await mount.fs.write(new, 0, b"MINE")
    await mount.close(new)
    assert mount.store.read_now(key_of(name)) == b"MINErs"


async def test_a_changed_xattr_counts(mount: MountBench) -> None:
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    assert mount.store.xattrs_now(KEY) == {}
    mount.store.put_now(KEY, b"before")
    await mount.stat(b"f")
    with pytest.raises(StaleFile):
        await mount.fs.write(old, 0, b"mine!!")


async def test_appends_go_behind(mount: MountBench) -> None:
    await mount.put(b"f", b"before")
    old = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
    mount.store.put_now(KEY, b"theirs")
    await mount.stat(b"f")
    await mount.fs.write(old, 0, b" mine")
    await mount.close(old)
    assert mount.store.read_now(KEY) == b"theirs mine"


async def test_what_an_append_has_met_counts_for_other_descriptors(mount: MountBench) -> None:
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    appending = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
    await mount.fs.write(appending, 0, b" mine")
    mount.store.put_now(KEY, b"theirs")
    await mount.close(appending)
    assert mount.store.read_now(KEY) == b"theirs mine"
    with pytest.raises(StaleFile):
        await mount.fs.write(old, 0, b"mine!!")


@pytest.mark.expects_log("is not stored")
async def test_our_own_append_whose_answer_is_lost(mount: MountBench) -> None:
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    appending = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
    await mount.fs.write(appending, 0, b" mine")
    mount.store.fail_next(TimedOut("no answer"), is_apply, applied=True)
    with pytest.raises(TimedOut):
        await mount.close(appending)
    await mount.fs.flush_all()
    await mount.fs.write(old, 0, b"B")
    with pytest.raises(TimedOut):  # each handle hears of the failure
        await mount.close(old)
    assert mount.store.read_now(KEY) == b"Before mine"


async def test_the_last_writer_may(nursery: trio.Nursery) -> None:
    mount = await started(nursery, conflict=ConflictMode.LAST_WRITER)
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    mount.store.put_now(KEY, b"theirs")
    await mount.stat(b"f")
    await mount.fs.write(old, 0, b"MINE")
    await mount.close(old)
    assert mount.store.read_now(KEY) == b"MINErs"


async def test_what_this_mount_changes_is_not_foreign(mount: MountBench) -> None:
    """By another descriptor, an xattr, a rename."""
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    other = await mount.open(b"f")
    await mount.fs.write(other, 0, b"B")
    await mount.close(other)
    await mount.fs.set_xattr((await mount.stat(b"f")).ino, b"user.k", b"v")
    await mount.stat(b"f")
    await mount.rename(b"f", b"g")
    await mount.stat(b"g")
    await mount.truncate(b"g", 5)
    await mount.fs.write(old, 4, b"R")
    await mount.close(old)
    assert mount.store.read_now(key_of(b"g")) == b"BefoR"


async def test_our_own_xattr_that_is_seen_before_its_answer(nursery: trio.Nursery) -> None:
    store = LateAnswers()
    store.put_now(KEY, b"before")
    mount = MountBench(nursery, store)
    await mount.fs.start()
    old = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    nursery.start_soon(mount.fs.set_xattr, ino, b"user.k", b"v")
    await wait_all_tasks_blocked()
    await mount.stat(b"f")
    nursery.start_soon(mount.fs.write, old, 0, b"MINE")  # waits for the answer
    await wait_all_tasks_blocked()
    store.answered.set()
    await wait_all_tasks_blocked()
    await mount.close(old)
    assert store.read_now(KEY) == b"MINEre"


async def test_opened_between_our_own_xattr_and_its_answer(nursery: trio.Nursery) -> None:
    """The open has seen the change before we heard that it was ours: so has who writes by it."""
    store = LateAnswers()
    store.put_now(KEY, b"before")
    mount = MountBench(nursery, store)
    await mount.fs.start()
    old = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    nursery.start_soon(mount.fs.set_xattr, ino, b"user.k", b"v")
    await wait_all_tasks_blocked()
    new = await mount.open(b"f")
    store.answered.set()
    await wait_all_tasks_blocked()
    await mount.fs.write(new, 0, b"MINE")
    await mount.fs.write(old, 4, b"OLD")
    await mount.close(new)
    await mount.close(old)
    assert store.read_now(KEY) == b"MINEOLD"
    store.put_now(KEY, b"theirs")
    again = await mount.open(b"f")
    assert again not in (old, new)
    store.put_now(KEY, b"theirs again")
    await mount.stat(b"f")
    with pytest.raises(StaleFile):
        await mount.fs.write(again, 0, b"mine")


async def test_our_own_xattr_whose_answer_is_lost(mount: MountBench) -> None:
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    mount.store.fail_next(TimedOut("no answer"), is_apply, applied=True)
    with pytest.raises(TimedOut):
        await mount.fs.set_xattr(ino, b"user.k", b"v")
    await mount.fs.lookup(ROOT_INO, b"f")
    await mount.fs.write(old, 0, b"MINE")
    await mount.close(old)
    assert mount.store.read_now(KEY) == b"MINEre"
    mount.store.put_now(KEY, b"theirs")  # once only
    await mount.stat(b"f")
    again = await mount.open(b"f")
    mount.store.put_now(KEY, b"theirs again")
    await mount.stat(b"f")
    with pytest.raises(StaleFile):
        await mount.fs.write(again, 0, b"mine")


async def test_append_after_our_own_xattr_whose_answer_is_lost(mount: MountBench) -> None:
    """The append finds another version, but nobody else was there."""
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    appending = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
    ino = (await mount.stat(b"f")).ino
    mount.store.fail_next(TimedOut("no answer"), is_apply, applied=True)
    with pytest.raises(TimedOut):
        await mount.fs.set_xattr(ino, b"user.k", b"v")
    await mount.fs.write(appending, 0, b" mine")
    await mount.close(appending)
    await mount.fs.write(old, 0, b"B")
    await mount.close(old)
    assert mount.store.read_now(KEY) == b"Before mine"


@pytest.mark.parametrize("is_applied", [True, False])
async def test_flush_after_our_own_xattr_whose_answer_is_lost(
    mount: MountBench, is_applied: bool
) -> None:
    """Nobody has heard of it before what is written then is flushed."""
    await mount.put(b"f", b"before")
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    mount.store.fail_next(TimedOut("no answer"), is_apply, applied=is_applied)
    with pytest.raises(TimedOut):
        await mount.fs.set_xattr(ino, b"user.k", b"v")
    await mount.fs.write(handle, 0, b"MINE")
    await mount.close(handle)
    assert mount.store.read_now(KEY) == b"MINEre"


@pytest.mark.expects_log("is not stored|could not be stored")
async def test_lost_xattr_is_no_licence(mount: MountBench) -> None:
    """What others change behind an xattr that was lost, and heard of or set anew, is theirs."""
    await mount.put(b"f", b"before")
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    for is_applied in (True, False):
        mount.store.fail_next(TimedOut("no answer"), is_apply, applied=is_applied)
        with pytest.raises(TimedOut):
            await mount.fs.set_xattr(ino, b"user.k", b"v")
        await mount.stat(b"f")
    await mount.fs.set_xattr(ino, b"user.k", b"w")
    await mount.fs.write(handle, 0, b"MINE")
    mount.store.change_now(KEY, Change((SetXattr(b"k", b"theirs"),)))
    with pytest.raises(VersionConflict):
        await mount.close(handle)
    assert mount.store.read_now(KEY) == b"before"


async def test_a_change_that_is_heard_of_while_a_write_waits_for_room(
    nursery: trio.Nursery,
) -> None:
    """What was true before the wait need not be after it."""
    mount = await started(nursery, size_bytes=64, atomic_max_bytes=0)
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    other, _ = await mount.create(b"other")
    is_stored = trio.Event()
    refused: list[bool] = []

    async def hold_back(call: Call) -> None:
        if is_apply(call):
            await is_stored.wait()

    async def write() -> None:
        try:
            await mount.fs.write(old, 0, b"mine!!")
        except StaleFile:
            refused.append(True)

    mount.store.delay = hold_back
    await mount.fs.write(other, 0, bytes(32))  # all that may be unstored
    nursery.start_soon(write)
    await wait_all_tasks_blocked()
    mount.store.put_now(KEY, b"theirs")
    await mount.stat(b"f")
    is_stored.set()
    await mount.close(other)
    await wait_all_tasks_blocked()
    await mount.close(old)
    assert refused
    assert mount.store.read_now(KEY) == b"theirs"


async def test_a_lost_xattr_that_never_comes_is_no_licence_to_write(mount: MountBench) -> None:
    """A stat that is answered after it has told so: the next change is somebody else's."""
    await mount.put(b"f", b"before")
    old = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    mount.store.fail_next(TimedOut("no answer"), is_apply)
    with pytest.raises(TimedOut):
        await mount.fs.set_xattr(ino, b"user.k", b"v")
    await mount.stat(b"f")
    mount.store.put_now(KEY, b"theirs")
    await mount.stat(b"f")
    with pytest.raises(StaleFile):
        await mount.fs.write(old, 0, b"mine!!")
