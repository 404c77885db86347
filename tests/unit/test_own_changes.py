"""What a thread has just stored or removed, it looks up again without asking the store."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator

import pytest
import trio

from radosmount.config import NamesMode, ViewConfig
from radosmount.errors import NoSuchEntry, RadosmountError, StaleFile, TimedOut
from radosmount.store.interface import Notice
from radosmount.store.memory import MemoryStore
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.bythread import THREAD_COUNT_MAX
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.ownchanges import SAMPLE_COUNT_MIN
from tests.support.mounts import MountBench, started
from tests.support.stores import is_apply, key_of, noted

THREAD, OTHER = 7, 8
TOOK_NS = 60 * NS_PER_S  # each acknowledgement: for half of that what is stored needs no asking
MTIME = AttributeChange(mtime_ns=NS_PER_S)


class Bench:
    """A mount, and a program of one thread."""

    def __init__(self, mount: MountBench, notice_fd: int) -> None:
        self.mount = mount
        self._notice_fd = notice_fd

    def notice(self, took_ns: int = TOOK_NS) -> Notice:
        return Notice(self._notice_fd, b"done", asked_ns=time.monotonic_ns() - took_ns)

    async def put(self, name: bytes, data: bytes = b"abc", took_ns: int = TOOK_NS) -> None:
        handle, _ = await self.mount.create(name)
        await self.mount.fs.write(handle, 0, data)
        await self.mount.fs.flush(handle, self.notice(took_ns), THREAD)
        await self.mount.fs.release(handle)

    async def put_many(self, count: int = SAMPLE_COUNT_MIN) -> None:
        for number in range(count):
            await self.put(b"%d" % number)

    async def unlink(self, name: bytes) -> None:
        await self.mount.fs.unlink(ROOT_INO, name, self.notice(), THREAD)

    async def asked(self, name: bytes, caller: int = THREAD) -> list[str]:
        """What a look-up asks the store."""
        with noted(self.mount.store) as calls, contextlib.suppress(NoSuchEntry):
            await self.mount.fs.lookup(ROOT_INO, name, caller)
        return calls


@pytest.fixture
def notice_fd() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
async def fresh(nursery: trio.Nursery, notice_fd: int) -> Bench:
    return Bench(await started(nursery), notice_fd)


@pytest.fixture
async def bench(fresh: Bench) -> Bench:
    """It knows how long an acknowledgement takes."""
    await fresh.put_many()
    return fresh


async def test_who_has_closed_it_need_not_ask(bench: Bench) -> None:
    await bench.put(b"f", b"content")
    assert await bench.asked(b"f") == []
    assert (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).size == len(b"content")


async def test_who_has_synced_it_need_not_ask(bench: Bench) -> None:
    handle, _ = await bench.mount.create(b"f")
    await bench.mount.fs.write(handle, 0, b"content")
    await bench.mount.fs.sync(handle, bench.notice(), THREAD)
    assert await bench.asked(b"f") == []


@pytest.mark.parametrize("caller", [OTHER, 0])
async def test_others_ask(caller: int, bench: Bench) -> None:
    await bench.put(b"f")
    assert await bench.asked(b"f", caller) == ["stat"]


async def test_nobody_knows_who_is_unknown(bench: Bench) -> None:
    handle, _ = await bench.mount.create(b"f")
    await bench.mount.fs.flush(handle, bench.notice())
    assert await bench.asked(b"f", caller=0) == ["stat"]


async def test_an_open_asks(bench: Bench) -> None:
    """Close-to-open, whatever the look-up has told."""
    await bench.put(b"f")
    ino = (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).ino
    bench.mount.store.put_now(bench.mount.key(b"f"), b"of others")
    opened = await bench.mount.fs.open(ino, os.O_RDONLY, THREAD)
    assert await bench.mount.read(opened.handle) == b"of others"


async def test_what_is_gone_is_looked_up_anew(bench: Bench) -> None:
    """An open that is told so (ESTALE) looks the name up again: ENOENT, then."""
    await bench.put(b"f")
    ino = (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).ino
    bench.mount.store.remove_now(bench.mount.key(b"f"))
    with pytest.raises(StaleFile):
        await bench.mount.fs.open(ino, os.O_RDONLY, THREAD)
    with pytest.raises(NoSuchEntry):
        await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)


async def test_a_change_of_its_mtime(bench: Bench) -> None:
    """utimensat(2) is told by the loop, which may have heard of the acknowledgement late; but it is
    no reason to ask for what was told before."""
    await bench.put(b"f")
    ino = (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).ino
    await bench.mount.fs.set_attributes(ino, MTIME)
    assert (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).mtime_ns == NS_PER_S
    assert await bench.asked(b"f", OTHER) == ["stat"]
    bench.mount.store.put_now(bench.mount.key(b"g"), b"abc")
    ino = (await bench.mount.fs.lookup(ROOT_INO, b"g", THREAD)).ino
    await bench.mount.fs.set_attributes(ino, MTIME)
    assert await bench.asked(b"g") == ["stat"]


async def test_a_flush_of_nothing_tells_nothing(bench: Bench) -> None:
    bench.mount.store.put_now(bench.mount.key(b"f"), b"abc")
    handle = await bench.mount.open(b"f")
    await bench.mount.fs.flush(handle, bench.notice(), THREAD)
    assert await bench.asked(b"f") == ["stat"]


async def test_one_fast_acknowledgement(bench: Bench) -> None:
    """Others may be as fast: what was stored long ago, compared with that, is asked for."""
    await bench.put(b"f")
    await bench.put(b"g", took_ns=0)
    assert await bench.asked(b"f") == ["stat"]


async def test_too_few_acknowledgements(fresh: Bench) -> None:
    """They may all have been slow."""
    await fresh.put_many(SAMPLE_COUNT_MIN - 1)
    assert await fresh.asked(b"0") == ["stat"]
    await fresh.put(b"f")
    assert await fresh.asked(b"0") == []


async def test_what_is_in_doubt_is_asked_for(bench: Bench) -> None:
    """A write that met a change of someone else's."""
    await bench.put(b"f")
    bench.mount.store.put_now(bench.mount.key(b"f"), b"of others")
    ino = (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).ino
    await bench.mount.fs.set_attributes(ino, MTIME)  # whatever it has become
    assert await bench.asked(b"f") == ["stat"]
    assert (await bench.mount.stat(b"f")).size == len(b"of others")


@pytest.mark.expects_log("another client has changed it")
async def test_what_has_failed_tells_nothing(bench: Bench) -> None:
    await bench.put(b"f")
    handle = await bench.mount.open(b"f")
    bench.mount.store.put_now(bench.mount.key(b"f"), b"of others")
    await bench.mount.fs.write(handle, 0, b"lost")
    notice = bench.notice()
    with pytest.raises(RadosmountError):
        await bench.mount.fs.flush(handle, notice, THREAD)
    assert not notice.is_sent
    await bench.mount.fs.release(handle)
    assert await bench.asked(b"f") == ["stat"]


@pytest.mark.parametrize("names", list(NamesMode))
async def test_who_has_removed_it_need_not_ask(
    names: NamesMode, nursery: trio.Nursery, notice_fd: int
) -> None:
    view = ViewConfig(pool=b"assets", names=names)
    bench = Bench(await started(nursery, view=view), notice_fd)
    await bench.put_many()
    await bench.unlink(b"0")
    assert await bench.asked(b"0") == []
    with pytest.raises(NoSuchEntry):
        await bench.mount.fs.lookup(ROOT_INO, b"0", THREAD)


async def test_who_has_renamed_it_need_not_ask(bench: Bench) -> None:
    """For the old name; of the new one it does not know how long that has been there."""
    await bench.mount.fs.rename(ROOT_INO, b"0", ROOT_INO, b"new", True, bench.notice(), THREAD)
    assert await bench.asked(b"0") == []
    assert (await bench.mount.fs.lookup(ROOT_INO, b"new", THREAD)).size == 3


@pytest.mark.parametrize("caller", [OTHER, 0])
async def test_others_ask_for_what_is_removed(caller: int, bench: Bench) -> None:
    await bench.unlink(b"0")
    assert await bench.asked(b"0", caller) != []


async def test_another_name_is_asked_for(bench: Bench) -> None:
    await bench.unlink(b"0")
    assert await bench.asked(b"1", OTHER) == ["stat"]
    assert await bench.asked(b"new") != []


async def test_what_was_made_anew(bench: Bench) -> None:
    """Through this mount, by whomever."""
    await bench.unlink(b"0")
    await bench.mount.put(b"0", b"made anew")
    assert (await bench.mount.fs.lookup(ROOT_INO, b"0", THREAD)).size == len(b"made anew")


async def test_removed_too_long_ago(bench: Bench) -> None:
    """Compared with the fastest acknowledgement."""
    await bench.unlink(b"0")
    await bench.put(b"f", took_ns=0)
    bench.mount.store.put_now(bench.mount.key(b"0"), b"of others")
    assert (await bench.mount.fs.lookup(ROOT_INO, b"0", THREAD)).size == len(b"of others")


async def test_a_removal_without_a_reply(bench: Bench) -> None:
    """It may not have happened."""
    bench.mount.store.fail_next(TimedOut("lost"), is_apply)
    with pytest.raises(TimedOut):
        await bench.unlink(b"0")
    assert await bench.asked(b"0") != []


async def test_a_directory_of_that_name(nursery: trio.Nursery, notice_fd: int) -> None:
    """What is removed is the file."""
    store = MemoryStore()
    store.put_now(key_of(b"0/below"), b"")
    bench = Bench(await started(nursery, store=store), notice_fd)
    store.put_now(key_of(b"f"), b"")
    await bench.put_many()
    await bench.unlink(b"f")
    assert await bench.asked(b"f") == []
    store.put_now(key_of(b"0"), b"of others")
    await bench.unlink(b"0")
    assert stat.S_ISDIR((await bench.mount.fs.lookup(ROOT_INO, b"0", THREAD)).mode)


async def test_no_more_threads_are_remembered(bench: Bench) -> None:
    for number in range(THREAD_COUNT_MAX + 1):
        name = b"of %d" % number
        await bench.put(name)
        notice = bench.notice()
        await bench.mount.fs.unlink(ROOT_INO, name, notice, OTHER + number)
    assert await bench.asked(b"of 0", OTHER) != []
    assert await bench.asked(b"of 1", OTHER + 1) == []
