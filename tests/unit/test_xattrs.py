"""Names and values of xattrs."""

import errno
import os

import pytest
import trio

from radosmount.cache.file import CachedFile
from radosmount.errors import (
    Unsupported,
    XattrMissing,
    XattrNameInvalid,
    XattrSpaceExceeded,
    XattrTooBig,
)
from radosmount.store.interface import Change, ObjectStat, SetXattr
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.xattrs import listed_names, rados_name, with_staged
from tests.support.mounts import MountBench
from tests.support.stores import key_of


@pytest.fixture
async def mount(nursery: trio.Nursery) -> MountBench:
    bench = MountBench(nursery)
    await bench.fs.start()
    return bench


@pytest.fixture
async def ino(mount: MountBench) -> int:
    await mount.put(b"f", b"abc")
    return (await mount.stat(b"f")).ino


def test_user_names_are_those_of_rados() -> None:
    """`user.` goes, what is behind it stays byte for byte; other namespaces are not RADOS's."""
    assert rados_name(b"user.color") == b"color"
    assert rados_name(b"user.\xff.user.") == b"\xff.user."
    assert rados_name(b"security.selinux") is None
    assert rados_name(b"ceph.pool") is None


def test_keys_of_locks_and_stripers_are_not_listed() -> None:
    """What Ceph's own classes keep is readable by name, but not listed."""
    names = [b"a", b"lock.x", b"striper.size"]
    assert listed_names(names) == [b"user.a"]


def test_staged_values_lie_over_stored_ones() -> None:
    """Xattrs that wait for a flush are seen here, and removed ones are not."""
    file = CachedFile(key_of(b"f"), ObjectStat(3, 1, 1))
    file.stage_xattr(b"a", b"new")
    file.stage_xattr(b"b", None)
    assert with_staged({b"a": b"old", b"b": b"1", b"c": b"2"}, file) == {b"a": b"new", b"c": b"2"}


async def test_missing(mount: MountBench, ino: int) -> None:
    """Reading or removing an xattr that is not there is ENODATA."""
    with pytest.raises(XattrMissing):
        await mount.fs.get_xattr(ino, b"user.none")
    with pytest.raises(XattrMissing):
        await mount.fs.set_xattr(ino, b"user.none", None)


async def test_too_big_a_foreign_value(mount: MountBench, ino: int) -> None:
    """A value that Linux cannot carry is E2BIG, one of exactly 64 KiB is not."""
    for name, size in ((b"fits", 65536), (b"big", 65537)):
        mount.store.change_now(key_of(b"f"), Change((SetXattr(name, bytes(size)),)))
    assert len(await mount.fs.get_xattr(ino, b"user.fits")) == 65536
    with pytest.raises(XattrTooBig):
        await mount.fs.get_xattr(ino, b"user.big")


async def test_too_long_a_name(mount: MountBench, ino: int) -> None:
    """A name of 100 bytes can be set, one of 101 cannot."""
    await mount.fs.set_xattr(ino, b"user." + b"n" * 100, b"x")
    with pytest.raises(XattrNameInvalid):
        await mount.fs.set_xattr(ino, b"user." + b"n" * 101, b"x")


async def test_security_is_answered_from_constants(mount: MountBench, ino: int) -> None:
    """security.* is ENODATA without a word to the store, system.* is not supported, nor are
    labels of SELinux."""
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(XattrMissing):
        await mount.fs.get_xattr(ino, b"security.capability")
    for name in (b"system.posix_acl_access", b"security.selinux"):
        with pytest.raises(Unsupported):
            await mount.fs.get_xattr(ino, name)
    with pytest.raises(Unsupported):
        await mount.fs.set_xattr(ino, b"security.capability", b"x")


async def test_virtual_xattrs(mount: MountBench, ino: int) -> None:
    """`ceph.*` tell pool, namespace, object and version; they are not listed nor changed."""
    assert await mount.fs.get_xattr(ino, b"ceph.pool") == b"assets"
    assert await mount.fs.get_xattr(ino, b"ceph.namespace") == b""
    assert await mount.fs.get_xattr(ino, b"ceph.object") == b"f"
    version = await mount.fs.get_xattr(ino, b"ceph.version")
    found = mount.store.stat_now(key_of(b"f"))
    assert found is not None
    assert int(version) == found.version
    assert await mount.fs.get_xattr(ROOT_INO, b"ceph.radosmount.pid") == b"%d" % os.getpid()
    assert await mount.fs.list_xattrs(ino) == []
    with pytest.raises(Unsupported):
        await mount.fs.set_xattr(ino, b"ceph.pool", b"x")
    with pytest.raises(XattrMissing):
        await mount.fs.get_xattr(ino, b"ceph.none")


async def test_xattrs_that_wait_are_bounded(mount: MountBench) -> None:
    """Of a file that RADOS does not have yet, they take 1 MiB: more is ENOSPC, until a flush has
    stored them. Values that replace others do not add up, and what is there can be removed."""
    handle, ino = await mount.create(b"new")
    for number in range(15):
        await mount.fs.set_xattr(ino, b"user.%d" % number, bytes(65536))
    for _ in range(2):
        with pytest.raises(XattrSpaceExceeded) as refusal:
            await mount.fs.set_xattr(ino, b"user.15", bytes(65536))
        await mount.fs.set_xattr(ino, b"user.14", bytes(65535))
    assert refusal.value.errno == errno.ENOSPC
    await mount.fs.set_xattr(ino, b"user.14", None)
    await mount.fs.set_xattr(ino, b"user.15", b"x")
    await mount.fs.sync(handle)
    await mount.fs.set_xattr(ino, b"user.16", bytes(65536))
    await mount.close(handle)
    stored = mount.store.xattrs_now(key_of(b"new"))
    assert set(stored) == {b"%d" % number for number in range(17) if number != 14}


def test_small_xattrs_that_wait_are_bounded() -> None:
    """They are no way to fill memory either: each has more than its bytes."""
    file = CachedFile(key_of(b"new"), None)

    def fill() -> None:
        for number in range(1 << 20):
            file.stage_xattr(b"%d" % number, b"")

    with pytest.raises(XattrSpaceExceeded):
        fill()
    assert 1000 < len(file.staged_xattrs) < 5000


async def test_rewritten_file_keeps_its_xattrs(mount: MountBench, ino: int) -> None:
    """Truncating and rewriting a file leaves its xattrs, as on a local disk."""
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    handle = await mount.open(b"f", os.O_WRONLY | os.O_TRUNC)
    await mount.fs.set_xattr(ino, b"user.size", b"XL")
    await mount.fs.write(handle, 0, b"new")
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue"}
    await mount.close(handle)
    assert mount.store.xattrs_now(key_of(b"f")) == {b"color": b"blue", b"size": b"XL"}
