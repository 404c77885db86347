"""What a thread has just stored, it looks up again without asking the store."""

import os
import time
from collections.abc import Iterator

import pytest
import trio

from radosmount.errors import RadosmountError
from radosmount.store.interface import Notice
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.ownchanges import SAMPLE_COUNT_MIN
from tests.support.mounts import MountBench, started
from tests.support.stores import noted

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

    async def asked(self, name: bytes, caller: int = THREAD) -> list[str]:
        """What a look-up asks the store."""
        with noted(self.mount.store) as calls:
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


async def test_a_change_of_its_mtime(bench: Bench) -> None:
    """utimensat(2) of what was closed; then rename(2) looks it up, and reads nothing."""
    await bench.put(b"f")
    ino = (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).ino
    await bench.mount.fs.set_attributes(ino, MTIME, caller=THREAD)
    assert await bench.asked(b"f", OTHER) == ["stat"]
    assert await bench.asked(b"f") == []
    with noted(bench.mount.store) as calls:
        await bench.mount.rename(b"f", b"g")
    assert calls == ["apply", "apply"]
    assert (await bench.mount.stat(b"g")).mtime_ns == NS_PER_S


@pytest.mark.expects_log("chmod and chown have no effect")
async def test_what_changes_nothing_tells_nothing(bench: Bench) -> None:
    """chmod(2) without effect asks nobody, and so tells of nobody's changes."""
    bench.mount.store.put_now(bench.mount.key(b"f"), b"abc")
    ino = (await bench.mount.fs.lookup(ROOT_INO, b"f", THREAD)).ino
    await bench.mount.fs.set_attributes(ino, AttributeChange(mode=0o600), caller=THREAD)
    assert await bench.asked(b"f") == ["stat"]


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
    await bench.mount.fs.set_attributes(ino, MTIME, caller=THREAD)  # whatever it has become
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
