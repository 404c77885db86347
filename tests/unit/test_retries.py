"""An open whose file has been renamed over finds the next one, however often that happens."""

import os
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from radosmount.errors import NoSuchEntry, PermissionDenied, StaleFile, StoreError
from radosmount.store.memory import Call
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.retries import LOOKUP_WAIT_S, OPEN_WAIT_S
from tests.support.mounts import MountBench
from tests.support.stores import key_of, removes

OPENER, RENAMER = 7, 8
KEY = key_of(b"target")

Leave = Callable[[MountBench, bytes], Awaitable[None]]


async def replace(mount: MountBench, name: bytes) -> None:
    await mount.fs.rename(ROOT_INO, name, ROOT_INO, b"target", may_replace=True, caller=RENAMER)


async def unlink(mount: MountBench, name: bytes) -> None:
    """And make it anew."""
    await mount.unlink(b"target")
    mount.store.put_now(KEY, name)


async def look_up(mount: MountBench) -> int:
    return (await mount.fs.lookup(ROOT_INO, b"target", OPENER)).ino


async def open_inode(mount: MountBench, ino: int) -> bytes:
    """What the handle reads."""
    opened = await mount.fs.open(ino, os.O_RDONLY, OPENER)
    return await mount.read(opened.handle)


class HeldRemoval:
    """The removals that are sent from now on wait for `may_go_on`, and then raise `failure`."""

    def __init__(self, mount: MountBench, failure: StoreError | None = None) -> None:
        self.is_sent, self.may_go_on = trio.Event(), trio.Event()
        self._failure = failure
        mount.store.delay = self._hold

    async def _hold(self, call: Call) -> None:
        if removes(call):
            self.is_sent.set()
            await self.may_go_on.wait()
            if self._failure is not None:
                raise self._failure


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
    """For the open of who came too late, once he has looked the name up; and no longer."""
    has_ended = trio.Event()

    async def rename() -> None:
        await replace(late, b"2")
        has_ended.set()

    ino = await look_up(late)
    nursery.start_soon(rename)
    await trio.testing.wait_all_tasks_blocked()
    assert not has_ended.is_set()
    begin_s = trio.current_time()
    assert await open_inode(late, ino) == b"1"
    await has_ended.wait()
    assert trio.current_time() == begin_s
    assert await late.get(b"target") == b"2"


@pytest.mark.parametrize("call", [unlink, replace])
async def test_the_look_up_waits(late: MountBench, nursery: trio.Nursery, call: Leave) -> None:
    """For a removal or rename that was under way when it came; the one behind that waits for the
    open."""
    inodes: list[int] = []

    async def look_up_late() -> None:
        inodes.append(await look_up(late))

    held = HeldRemoval(late)
    nursery.start_soon(call, late, b"2")
    await held.is_sent.wait()
    nursery.start_soon(look_up_late)
    await trio.testing.wait_all_tasks_blocked()
    assert inodes == []
    nursery.start_soon(replace, late, b"3")
    held.may_go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    [ino] = inodes
    assert await open_inode(late, ino) == b"2"
    await trio.testing.wait_all_tasks_blocked()
    assert await late.get(b"target") == b"3"


@pytest.mark.parametrize("has_looked_up", [False, True])
async def test_who_does_not_come(
    late: MountBench, has_looked_up: bool, autojump_clock: MockClock
) -> None:
    """A killed thread delays a rename, for a moment, if it has looked the name up; and no other
    name's."""
    if has_looked_up:
        await look_up(late)
    begin_s = trio.current_time()
    await late.rename(b"3", b"other")
    assert trio.current_time() == begin_s
    await replace(late, b"2")
    took_s = trio.current_time() - begin_s
    assert took_s == pytest.approx(OPEN_WAIT_S if has_looked_up else 0)
    assert await late.get(b"target") == b"2"


async def test_a_look_up_without_an_answer(
    late: MountBench, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whoever waits for it goes on after a while."""
    is_asked = trio.Event()

    async def leave_unanswered(call: Call) -> None:
        if call.method.startswith("stat"):
            is_asked.set()
            await trio.sleep_forever()

    late.store.delay = leave_unanswered
    nursery.start_soon(look_up, late)
    await is_asked.wait()
    late.store.delay = None
    begin_s = trio.current_time()
    await late.unlink(b"target")
    assert trio.current_time() - begin_s == pytest.approx(LOOKUP_WAIT_S)
    nursery.cancel_scope.cancel()


async def test_a_failed_look_up(late: MountBench, autojump_clock: MockClock) -> None:
    """Of a name that is gone: nobody opens it."""
    await late.unlink(b"target")
    with pytest.raises(NoSuchEntry):
        await look_up(late)
    await late.put(b"target", b"again")
    begin_s = trio.current_time()
    await replace(late, b"2")
    assert trio.current_time() == begin_s
    await look_up(late)  # as the kernel does once more
    await replace(late, b"3")
    assert trio.current_time() - begin_s == pytest.approx(OPEN_WAIT_S)


async def test_an_open_during_a_removal(mount: MountBench, nursery: trio.Nursery) -> None:
    """It waits, and is told to look the name up again: else it would have neither the content,
    which nobody has copied, nor a name."""
    await mount.put(b"target", b"content")
    ino = await look_up(mount)
    held = HeldRemoval(mount)
    nursery.start_soon(mount.unlink, b"target")
    await held.is_sent.wait()
    assert await opened_after(held, mount, ino, nursery) is None
    with pytest.raises(NoSuchEntry):
        await look_up(mount)


async def test_an_open_during_the_removal_of_an_unknown_object(
    mount: MountBench, nursery: trio.Nursery
) -> None:
    """What has no inode yet may get one while it is being removed."""
    mount.store.put_now(KEY, b"content")
    held = HeldRemoval(mount)
    nursery.start_soon(mount.unlink, b"target")
    await held.is_sent.wait()
    assert await opened_after(held, mount, await look_up(mount), nursery) is None


async def test_an_open_during_a_removal_that_fails(
    mount: MountBench, nursery: trio.Nursery
) -> None:
    """It opens the file, which is still there."""
    await mount.put(b"target", b"content")
    ino = await look_up(mount)
    held = HeldRemoval(mount, PermissionDenied("no caps"))

    async def unlink_in_vain() -> None:
        with pytest.raises(PermissionDenied):
            await mount.unlink(b"target")

    nursery.start_soon(unlink_in_vain)
    await held.is_sent.wait()
    assert await opened_after(held, mount, ino, nursery) == b"content"


async def opened_after(
    held: HeldRemoval, mount: MountBench, ino: int, nursery: trio.Nursery
) -> bytes | None:
    """What is read by an open that waits for the removal; None where that ends in ESTALE."""
    found: list[bytes | None] = []

    async def open_late() -> None:
        try:
            found.append(await open_inode(mount, ino))
        except StaleFile:
            found.append(None)

    nursery.start_soon(open_late)
    await trio.testing.wait_all_tasks_blocked()
    assert found == []
    held.may_go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    [content] = found
    return content
