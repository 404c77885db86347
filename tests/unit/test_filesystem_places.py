"""Pools and permissions in the file system, over a memory store."""

import os
import stat

import pytest
import trio
import trio.testing

from radosmount.config import ViewConfig
from radosmount.errors import (
    AccessDenied,
    CrossPool,
    MountError,
    NoSuchEntry,
    NotPermitted,
    ReadOnly,
)
from radosmount.store.memory import MemoryStore
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import started
from tests.support.stores import key_of


def two_pools() -> MemoryStore:
    store = MemoryStore(pools=(b"assets", b"music"))
    store.add_pool(b"images", frozenset({"rbd"}))
    return store


async def test_root_of_all_pools(nursery: trio.Nursery) -> None:
    """Without a pool in the source every pool is a directory of the root."""
    mount = await started(nursery, store=two_pools(), view=ViewConfig())
    assert sorted(await mount.names()) == [b"assets", b"images", b"music"]
    pool = await mount.fs.lookup(ROOT_INO, b"assets")
    assert stat.S_ISDIR(pool.mode)
    opened, _ = await mount.fs.create(pool.ino, b"f", os.O_WRONLY | os.O_CREAT)
    await mount.fs.write(opened.handle, 0, b"abc")
    await mount.close(opened.handle)
    assert mount.stored(b"f") == b"abc"
    assert await mount.names(pool.ino) == [b"f"]
    with pytest.raises(NoSuchEntry):
        await mount.fs.lookup(ROOT_INO, b"nothing")


async def test_nothing_is_made_in_the_root_of_pools(nursery: trio.Nursery) -> None:
    """Files cannot be made, removed or renamed among the pools: EPERM."""
    mount = await started(nursery, store=two_pools(), view=ViewConfig())
    with pytest.raises(NotPermitted):
        await mount.create(b"f")
    with pytest.raises(NotPermitted):
        await mount.unlink(b"assets")
    with pytest.raises(NotPermitted):
        await mount.rename(b"assets", b"x")


async def test_rename_between_pools(nursery: trio.Nursery) -> None:
    """A rename from pool to pool is EXDEV, so that mv copies."""
    mount = await started(nursery, store=two_pools(), view=ViewConfig())
    one = (await mount.fs.lookup(ROOT_INO, b"assets")).ino
    two = (await mount.fs.lookup(ROOT_INO, b"music")).ino
    mount.store.put_now(key_of(b"f"), b"abc")
    with pytest.raises(CrossPool):
        await mount.fs.rename(one, b"f", two, b"f", True)


async def test_foreign_pool_is_read_only(nursery: trio.Nursery) -> None:
    """A pool of rbd is read-only, unless it is named."""
    store = two_pools()
    mount = await started(nursery, store=store, view=ViewConfig())
    images = (await mount.fs.lookup(ROOT_INO, b"images")).ino
    with pytest.raises(ReadOnly):
        await mount.fs.create(images, b"f", os.O_WRONLY)
    named = await started(
        nursery, store=store, view=ViewConfig(writable_pools=frozenset({b"images"}))
    )
    images = (await named.fs.lookup(ROOT_INO, b"images")).ino
    await named.fs.create(images, b"f", os.O_WRONLY)


async def test_read_only_mount(nursery: trio.Nursery) -> None:
    """With `ro` nothing can be opened for writing, made, removed or renamed: EROFS."""
    mount = await started(nursery, view=ViewConfig(pool=b"assets", is_read_only=True))
    mount.store.put_now(key_of(b"f"), b"abc")
    assert await mount.get(b"f") == b"abc"
    for attempt in (
        mount.open(b"f", os.O_WRONLY),
        mount.create(b"g"),
        mount.unlink(b"f"),
        mount.rename(b"f", b"g"),
        mount.truncate(b"f", 0),
    ):
        with pytest.raises(ReadOnly):
            await attempt


async def test_no_write_cap(nursery: trio.Nursery) -> None:
    """Without a write cap opening for writing is EACCES, and reading works."""
    store = MemoryStore()
    store.put_now(key_of(b"f"), b"abc")
    store.set_caps(1, is_readable=True, is_writable=False)
    mount = await started(nursery, store=store)
    assert await mount.get(b"f") == b"abc"
    with pytest.raises(AccessDenied):
        await mount.open(b"f", os.O_RDWR)


async def test_no_such_pool(nursery: trio.Nursery) -> None:
    """A source that names a pool that is not there does not mount."""
    with pytest.raises(MountError, match="there is no pool 'x'"):
        await started(nursery, view=ViewConfig(pool=b"x"))
