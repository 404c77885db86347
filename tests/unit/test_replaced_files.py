"""What one read(2) of the kernel sees while others replace the file."""

import os
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from radosmount.errors import StaleFile
from radosmount.store.memory import Call
from tests.support.mounts import MountBench
from tests.support.stores import key_of, removes

PAGE = 4096
SIZE = 4 * PAGE


def generation(number: int) -> bytes:
    return bytes([number]) * SIZE


class Kernel:
    """Pages of one inode, as mm/filemap.c and fs/fuse have them.

    `read` copies what it finds in a batch, and asks for the run that is missing, whose pages are
    locked meanwhile. `invalidate` (fuse_reverse_inval_inode) drops page by page, waiting for locks.
    `turn` is awaited where R may lose the CPU: after each page that it copied alone.
    """

    def __init__(self, mount: MountBench, handle: int) -> None:
        self.mount, self.handle = mount, handle
        self.pages: dict[int, bytes] = {}
        self.unlocked = trio.Event()
        self.unlocked.set()
        self.requests: list[tuple[int, int]] = []

    async def read(self, turn: Callable[[int], Awaitable[None]]) -> bytes:
        copied: list[bytes] = []
        while (index := len(copied)) < SIZE // PAGE:
            if index not in self.pages:
                missing = index
                while missing < SIZE // PAGE and missing not in self.pages:
                    missing += 1
                await self._ask(index, missing)
                await turn(index)
            if index in self.pages:
                copied.append(self.pages[index])
                await turn(index)
        return b"".join(copied)

    async def _ask(self, start: int, end: int) -> None:
        self.requests.append((start, end))
        self.unlocked = trio.Event()
        data = await self.mount.read(self.handle, start * PAGE, (end - start) * PAGE)
        for index in range(start, end):
            self.pages[index] = data[(index - start) * PAGE : (index - start + 1) * PAGE]
        self.unlocked.set()

    async def invalidate(self) -> None:
        await self.unlocked.wait()
        self.pages.clear()


async def test_one_read_of_a_replaced_file(mount: MountBench, nursery: trio.Nursery) -> None:
    """The notice that a read itself causes waits for that read's pages, and takes them away while
    they are copied: what is asked for again is of a later version."""
    mount.store.put_now(key_of(b"f"), generation(1))
    handle = await mount.open(b"f", os.O_RDONLY)
    mount.store.put_now(key_of(b"f"), generation(2))  # between OPEN and READ
    kernel = Kernel(mount, handle)
    mount.fs._objects._invalidate = lambda ino: nursery.start_soon(kernel.invalidate)
    is_copied = False

    async def turn(index: int) -> None:
        nonlocal is_copied
        if index == 0 and 0 in kernel.pages and is_copied is False:
            is_copied = True
            return  # unlocked, not copied yet
        if index == 0:
            await trio.testing.wait_all_tasks_blocked()  # cond_resched(): the notice's thread runs
            mount.store.put_now(key_of(b"f"), generation(3))

    content = await kernel.read(turn)
    assert content in (generation(2), generation(3)), (kernel.requests, content[::PAGE])


async def test_no_notice_where_all_is_asked_for(mount: MountBench) -> None:
    mount.store.put_now(key_of(b"f"), generation(1))
    handle = await mount.open(b"f", os.O_RDONLY)
    mount.store.put_now(key_of(b"f"), generation(2))
    assert await mount.read(handle, 0, SIZE) == generation(2)
    assert mount.invalidated == []


async def test_notice_where_pages_may_be_there(mount: MountBench) -> None:
    mount.store.put_now(key_of(b"f"), generation(1))
    handle = await mount.open(b"f", os.O_RDONLY)
    ino = (await mount.stat(b"f")).ino
    mount.store.put_now(key_of(b"f"), generation(2))
    assert await mount.read(handle, PAGE, SIZE - PAGE) == generation(2)[PAGE:]
    assert mount.invalidated == [ino]
    mount.store.put_now(key_of(b"f"), generation(3) + b"longer")
    assert await mount.read(handle, 0, SIZE) == generation(3)
    assert mount.invalidated == [ino, ino]


async def test_two_opens_at_once(mount: MountBench) -> None:
    """The kernel drops the pages when it has the first one's answer, which may be after it has
    the second's: nothing has come by the first handle yet that would say so."""
    mount.store.put_now(key_of(b"f"), generation(1))
    ino = (await mount.stat(b"f")).ino
    mount.store.put_now(key_of(b"f"), generation(2))
    first = await mount.fs.open(ino, os.O_RDONLY)
    second = await mount.fs.open(ino, os.O_RDONLY)
    assert not first.keeps_pages
    assert not second.keeps_pages


async def test_looked_up_before_the_rename_took_the_name(
    mount: MountBench, nursery: trio.Nursery
) -> None:
    """The target was unknown here, and looked up while the rename was under way: its inode is not
    that of the file that took the name, and whoever opens it is told so."""
    mount.store.put_now(key_of(b"target"), b"foreign")
    await mount.put(b"one", b"content one")
    await mount.put(b"two", b"content two")
    inodes: list[int] = []
    failures: list[StaleFile] = []

    async def open_late() -> None:
        try:
            await mount.fs.open(inodes[0], os.O_RDONLY)
        except StaleFile as failure:
            failures.append(failure)

    async def look_up_before(call: Call) -> None:
        if removes(call) and call.key == key_of(b"one"):
            mount.store.delay = None
            inodes.append((await mount.stat(b"target")).ino)
            nursery.start_soon(open_late)
            await trio.testing.wait_all_tasks_blocked()
            assert not failures

    mount.store.delay = look_up_before
    await mount.rename(b"one", b"target")
    await trio.testing.wait_all_tasks_blocked()
    assert failures
    handle = await mount.open(b"target", os.O_RDONLY)
    await mount.rename(b"two", b"target")
    assert await mount.read(handle) == b"content one"
