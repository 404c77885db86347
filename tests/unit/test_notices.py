"""Who waits hears of success in the moment of the acknowledgement: which calls say so, and that
what they say is what they return."""

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest
import trio

from radosmount.config import FlushMode, ViewConfig
from radosmount.errors import EntryExists, NoSuchEntry, RadosmountError, TimedOut
from radosmount.store.interface import Notice
from radosmount.store.memory import Call
from radosmount.vfs.attributes import Attributes
from radosmount.vfs.metadata import Creator
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.openfiles import OpenFile
from tests.support.mounts import MountBench, started
from tests.support.stores import is_apply, key_of

EXCLUSIVELY = os.O_CREAT | os.O_EXCL | os.O_RDWR
Telling = Callable[[MountBench, Notice], Awaitable[object]]


@pytest.fixture
def notice() -> Iterator[Notice]:
    """To nowhere: that it was sent is enough."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    yield Notice(descriptor, b"done")
    os.close(descriptor)


async def written(mount: MountBench, name: bytes = b"f", data: bytes = b"new") -> int:
    """A handle with something to store."""
    handle, _ = await mount.create(name)
    await mount.fs.write(handle, 0, data)
    return handle


async def close(mount: MountBench, notice: Notice) -> None:
    await mount.fs.flush(await written(mount), notice)


async def sync(mount: MountBench, notice: Notice) -> None:
    await mount.fs.sync(await written(mount), notice)


async def append(mount: MountBench, notice: Notice) -> None:
    await mount.put(b"f", b"old")
    handle = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
    await mount.fs.write(handle, 0, b"new")
    await mount.fs.sync(handle, notice)


async def unlink(mount: MountBench, notice: Notice) -> None:
    await mount.put(b"f", b"old")
    await mount.fs.unlink(ROOT_INO, b"f", notice)


async def unlink_foreign(mount: MountBench, notice: Notice) -> None:
    mount.store.put_now(key_of(b"f"), b"old")
    await mount.fs.unlink(ROOT_INO, b"f", notice)


async def unlink_open(mount: MountBench, notice: Notice) -> None:
    await mount.put(b"f", b"old")
    await mount.open(b"f")
    await mount.fs.unlink(ROOT_INO, b"f", notice)


async def set_xattr(mount: MountBench, notice: Notice) -> None:
    await mount.put(b"f", b"old")
    await mount.fs.set_xattr((await mount.stat(b"f")).ino, b"user.x", b"1", notice)


async def rename(mount: MountBench, notice: Notice) -> None:
    await mount.put(b"f", b"old")
    await mount.put(b"g", b"other")
    await mount.fs.rename(ROOT_INO, b"f", ROOT_INO, b"g", True, notice)


CALLS = [close, sync, append, unlink, unlink_foreign, unlink_open, set_xattr, rename]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_these_calls_tell(call: Telling, mount: MountBench, notice: Notice) -> None:
    await call(mount, notice)
    assert notice.is_sent


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.expects_log("is not stored")
async def test_a_failure_is_not_told(call: Telling, mount: MountBench, notice: Notice) -> None:
    """Whichever of a call's operations it is that fails."""
    calls: list[Notice] = []

    async def fail_with_notice(call: Call) -> None:
        if call.change is not None and call.change.notice is not None:
            calls.append(call.change.notice)
            raise TimedOut("lost")

    mount.store.delay = fail_with_notice
    with pytest.raises(RadosmountError):
        await call(mount, notice)
    assert calls == [notice]
    assert not notice.is_sent


async def test_nothing_to_store_is_not_told(mount: MountBench, notice: Notice) -> None:
    """The caller answers, at once."""
    await mount.put(b"f", b"old")
    handle = await mount.open(b"f")
    await mount.fs.sync(handle, notice)
    assert not notice.is_sent


async def test_a_flush_of_several_operations_is_not_told(
    nursery: trio.Nursery, notice: Notice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first acknowledgement is not all."""
    monkeypatch.setattr("radosmount.cache.extents.BLOCK_BYTES", 4)
    monkeypatch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 4)
    mount = await started(nursery, atomic_max_bytes=0)
    handle = await written(mount, data=bytes(100))
    await mount.fs.sync(handle, notice)
    assert not notice.is_sent
    assert mount.stored(b"f") == bytes(100)


@pytest.mark.expects_log("is not stored")
async def test_who_has_an_error_to_hear_hears_that(mount: MountBench, notice: Notice) -> None:
    """The flush goes well, the one before it did not, and this handle has not been told."""
    handle, other = await written(mount), await mount.open(b"f")
    mount.store.fail_next(TimedOut("lost"), is_apply)
    with pytest.raises(TimedOut):
        await mount.fs.sync(other)
    with pytest.raises(TimedOut):
        await mount.fs.sync(handle, notice)
    assert not notice.is_sent
    assert mount.stored(b"f") == b"new"


async def test_a_lazy_close_is_not_told(nursery: trio.Nursery, notice: Notice) -> None:
    mount = await started(nursery, flush=FlushMode.LAZY)
    await close(mount, notice)
    assert not notice.is_sent
    assert mount.stored(b"f") is None


class Creation:
    """What is told of a file that is made."""

    def __init__(self, notice: Notice) -> None:
        self.notice = notice
        self.told: list[tuple[OpenFile, Attributes]] = []

    def __call__(self, opened: OpenFile, attributes: Attributes) -> Notice:
        self.told.append((opened, attributes))
        return self.notice


@pytest.mark.parametrize("has_posix", [False, True])
@pytest.mark.parametrize("flags", [EXCLUSIVELY, EXCLUSIVELY | os.O_TRUNC])
async def test_what_is_told_of_a_new_file_is_true(
    has_posix: bool, flags: int, nursery: trio.Nursery, notice: Notice
) -> None:
    """Inode, handle and attributes are those that the file has, but for how long they are valid."""
    mount = await started(nursery, view=ViewConfig(pool=b"assets", has_posix=has_posix))
    creation = Creation(notice)
    creator = Creator(0o640, 7, 8)
    assert await mount.fs.create(ROOT_INO, b"f", flags, creator, creation) == creation.told[0]
    ((told_opened, told),) = creation.told
    attributes = await mount.fs.get_attributes(told.ino)
    assert notice.is_sent
    if flags & os.O_TRUNC:  # which changes the mtime, of that very moment
        assert (told.ino, told.mode, told.size) == (attributes.ino, attributes.mode, 0)
    else:
        assert told == replace(attributes, valid_s=told.valid_s)
    assert told.valid_s >= attributes.valid_s
    await mount.fs.write(told_opened.handle, 0, b"new")
    await mount.close(told_opened.handle)
    assert mount.stored(b"f") == b"new"


async def test_a_file_that_was_there_is_not_told(mount: MountBench, notice: Notice) -> None:
    mount.store.put_now(key_of(b"f"), b"theirs")
    with pytest.raises(EntryExists):
        await mount.fs.create(ROOT_INO, b"f", EXCLUSIVELY, None, Creation(notice))
    assert not notice.is_sent


async def test_without_o_excl_nothing_is_told(mount: MountBench, notice: Notice) -> None:
    """Nothing is stored yet."""
    creation = Creation(notice)
    await mount.fs.create(ROOT_INO, b"f", os.O_CREAT | os.O_RDWR, None, creation)
    assert not creation.told


async def test_who_was_listed_meanwhile_is_the_one_that_was_told(
    mount: MountBench, notice: Notice
) -> None:
    """A listing that runs beside the creation may see the object before the creation has heard."""
    creation = Creation(notice)

    async def list_meanwhile(call: Call) -> None:
        if is_apply(call):
            mount.store.delay = None
            mount.fs._objects.known(key_of(b"f"))

    mount.store.delay = list_meanwhile
    _, attributes = await mount.fs.create(ROOT_INO, b"f", EXCLUSIVELY, None, creation)
    assert attributes.ino == creation.told[0][1].ino
    assert (await mount.stat(b"f")).ino == attributes.ino


async def test_a_number_in_use_is_told_of_nobody(mount: MountBench, notice: Notice) -> None:
    """The inode of a file that was unlinked while open has the number that the new one would get:
    who makes it anew hears of it from us, with another."""
    await mount.put(b"f", b"old")
    handle = await mount.open(b"f")
    old_ino = (await mount.stat(b"f")).ino
    await mount.unlink(b"f")
    creation = Creation(notice)
    _, attributes = await mount.fs.create(ROOT_INO, b"f", EXCLUSIVELY, None, creation)
    assert not creation.told
    assert attributes.ino != old_ino
    assert await mount.read(handle) == b"old"


async def test_nobody_else_gets_a_number_that_was_told(mount: MountBench, notice: Notice) -> None:
    """Not even one whose own would be the same."""
    nodes = mount.fs._nodes
    ino = nodes.expect(key_of(b"f"))
    assert ino is not None
    assert nodes.expect(key_of(b"f")) is None
    node = mount.fs._objects.known(key_of(b"f"))
    assert node.ino == ino
    nodes.expect_no_more(ino)
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"f")
