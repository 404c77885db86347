"""An open whose file has been renamed over finds the next one, however often that happens."""

import os

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from radosmount.errors import NoSuchEntry, StaleFile
from radosmount.store.memory import Call
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.retries import LOOKUP_WAIT_S, OPEN_WAIT_S
from tests.support.mounts import MountBench
from tests.support.stores import key_of, removes

OPENER, RENAMER = 7, 8


async def replace(mount: MountBench, name: bytes) -> None:
    await mount.fs.rename(ROOT_INO, name, ROOT_INO, b"target", may_replace=True, caller=RENAMER)


async def look_up(mount: MountBench) -> int:
    return (await mount.fs.lookup(ROOT_INO, b"target", OPENER)).ino


async def open_inode(mount: MountBench, ino: int) -> bytes:
    """What the handle reads."""
    opened = await mount.fs.open(ino, os.O_RDONLY, OPENER)
    return await mount.read(opened.handle)


@pytest.fixture
async def late(mount: MountBench) -> MountBench:
    """The thread was told that the target is gone, and two more files may replace it."""
    for name in (b"target", b"1", b"2", b"3"):
        await mount.put(name, name)
    ino = await look_up(mount)
    await replace(mount, b"1")
    with pytest.raises(StaleFile):
        await mount.fs.open(ino, os.O_RDONLY, OPENER)
    return mount


async def test_the_next_rename_waits(
    late: MountBench, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """For the look-up and the open of who came too late, and no longer."""
    has_ended = trio.Event()

    async def rename() -> None:
        await replace(late, b"2")
        has_ended.set()

    nursery.start_soon(rename)
    await trio.testing.wait_all_tasks_blocked()
    ino = await look_up(late)
    await trio.testing.wait_all_tasks_blocked()
    assert not has_ended.is_set()
    begin_s = trio.current_time()
    assert await open_inode(late, ino) == b"1"
    await has_ended.wait()
    assert trio.current_time() == begin_s
    assert await late.get(b"target") == b"2"


async def test_the_look_up_waits(late: MountBench, nursery: trio.Nursery) -> None:
    """For a rename that was under way when it came; the one behind that waits for the open."""
    is_sent, may_go_on = trio.Event(), trio.Event()
    inodes: list[int] = []

    async def hold(call: Call) -> None:
        if removes(call) and call.key == key_of(b"2"):
            is_sent.set()
            await may_go_on.wait()

    async def look_up_late() -> None:
        inodes.append(await look_up(late))

    await trio.sleep(LOOKUP_WAIT_S)
    late.store.delay = hold
    nursery.start_soon(replace, late, b"2")
    await is_sent.wait()
    nursery.start_soon(look_up_late)
    await trio.testing.wait_all_tasks_blocked()
    assert inodes == []
    nursery.start_soon(replace, late, b"3")
    may_go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    [ino] = inodes
    assert await open_inode(late, ino) == b"2"
    await trio.testing.wait_all_tasks_blocked()
    assert await late.get(b"target") == b"3"


async def test_who_waits_for_a_rename_is_expected(mount: MountBench, nursery: trio.Nursery) -> None:
    """From when he waits: the next rename may begin before he has been told that it was in vain."""
    for name in (b"target", b"1", b"2"):
        await mount.put(name, name)
    ino = await look_up(mount)
    is_sent, may_go_on = trio.Event(), trio.Event()
    was_stale = False

    async def hold(call: Call) -> None:
        if removes(call) and call.key == key_of(b"1"):
            is_sent.set()
            await may_go_on.wait()

    async def open_late() -> None:
        nonlocal was_stale
        try:
            await mount.fs.open(ino, os.O_RDONLY, OPENER)
        except StaleFile:
            was_stale = True

    mount.store.delay = hold
    nursery.start_soon(replace, mount, b"1")
    await is_sent.wait()
    nursery.start_soon(open_late)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(replace, mount, b"2")
    may_go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert was_stale
    assert await open_inode(mount, await look_up(mount)) == b"1"


@pytest.mark.parametrize("has_looked_up", [False, True])
async def test_who_does_not_come(
    late: MountBench, has_looked_up: bool, autojump_clock: MockClock
) -> None:
    """A killed thread delays a rename, for a moment, and no other name's."""
    if has_looked_up:
        await look_up(late)
    begin_s = trio.current_time()
    await late.rename(b"3", b"other")
    assert trio.current_time() == begin_s
    await replace(late, b"2")
    took_s = trio.current_time() - begin_s
    assert took_s == pytest.approx(OPEN_WAIT_S if has_looked_up else LOOKUP_WAIT_S)
    assert await late.get(b"target") == b"2"


async def test_a_failed_look_up(late: MountBench, autojump_clock: MockClock) -> None:
    """Of a name that is gone: nobody opens it."""
    await late.unlink(b"target")
    with pytest.raises(NoSuchEntry):
        await look_up(late)
    await late.put(b"target", b"again")
    begin_s = trio.current_time()
    await replace(late, b"2")
    assert trio.current_time() == begin_s
