"""Extended attributes through the mount."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import rados

from radosmount.lab import Lab
from tests.mount.calls import fails
from tests.support.cluster import SHARED_POOL


def stored(objects: rados.Ioctx, path: Path) -> dict[str, bytes]:
    return dict(objects.get_xattrs(path.name))


@pytest.fixture
def existing(file: Path) -> Path:
    file.write_bytes(b"content")
    return file


VALUES = [b"", b"blue", bytes(range(256)), os.urandom(65536)]


@pytest.mark.parametrize("value", VALUES, ids=len)
def test_both_ways(value: bytes, existing: Path, objects: rados.Ioctx) -> None:
    """`user.KEY` is the RADOS xattr `KEY`, byte for byte, both ways."""
    os.setxattr(existing, "user.mine", value)
    objects.set_xattr(existing.name, "theirs", value)
    assert stored(objects, existing) == {"mine": value, "theirs": value}
    assert os.getxattr(existing, "user.theirs") == value
    assert os.getxattr(existing, "user.mine") == value
    assert sorted(os.listxattr(existing)) == ["user.mine", "user.theirs"]
    os.removexattr(existing, "user.theirs")
    assert stored(objects, existing) == {"mine": value}


@pytest.mark.parametrize("key", ["x" * 100, "a b", "é", "user.twice", "_underscore"])
def test_keys(key: str, existing: Path, objects: rados.Ioctx) -> None:
    os.setxattr(existing, f"user.{key}", b"value")
    assert stored(objects, existing) == {key: b"value"}
    assert os.listxattr(existing) == [f"user.{key}"]


def test_names_of_over_100_bytes(existing: Path) -> None:
    """RADOS holds no xattr names of over 100 bytes: there is none, and none can be set."""
    for call in (os.getxattr, os.removexattr):
        with fails(errno.ENODATA):
            call(existing, "user." + "x" * 101)
    with fails(errno.ERANGE):
        os.setxattr(existing, "user." + "x" * 101, b"")


def test_foreign_values_over_64_kib(existing: Path, lab: Lab, objects: rados.Ioctx) -> None:
    """A foreign value of 70 KB is E2BIG, and hides nothing else."""
    lab.ceph("config", "set", "osd", "osd_max_attr_size", "100000")
    objects.set_xattr(existing.name, "huge", bytes(70_000))
    objects.set_xattr(existing.name, "small", b"value")
    with fails(errno.E2BIG):
        os.getxattr(existing, "user.huge")
    assert os.getxattr(existing, "user.small") == b"value"
    assert sorted(os.listxattr(existing)) == ["user.huge", "user.small"]
    os.removexattr(existing, "user.huge")
    assert os.listxattr(existing) == ["user.small"]


def test_create_and_replace(existing: Path, objects: rados.Ioctx) -> None:
    """XATTR_CREATE and XATTR_REPLACE do what setxattr(2) says, also against what other clients
    have set before."""
    with fails(errno.ENODATA):
        os.setxattr(existing, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(existing, "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(existing, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(existing, "user.a", b"3", os.XATTR_REPLACE)
    objects.set_xattr(existing.name, "b", b"theirs")
    with fails(errno.EEXIST):
        os.setxattr(existing, "user.b", b"2", os.XATTR_CREATE)
    assert stored(objects, existing) == {"a": b"3", "b": b"theirs"}


def test_missing_ones(existing: Path) -> None:
    with fails(errno.ENODATA):
        os.getxattr(existing, "user.nonesuch")
    with fails(errno.ENODATA):
        os.removexattr(existing, "user.nonesuch")


def test_locks_and_stripers_are_not_listed(existing: Path, lab: Lab, objects: rados.Ioctx) -> None:
    """`lock.*` and `striper.*` are readable by name, but not listed."""
    objects.set_xattr(existing.name, "striper.size", b"17")
    lab.rados("-p", SHARED_POOL, "lock", "get", existing.name, "mine")
    assert os.listxattr(existing) == []
    assert os.getxattr(existing, "user.striper.size") == b"17"
    assert os.getxattr(existing, "user.lock.mine")


def test_virtual_ones(existing: Path, objects: rados.Ioctx) -> None:
    """`ceph.pool`, `ceph.namespace`, `ceph.object` and `ceph.version` tell where a file is in
    RADOS. They are never listed."""
    assert os.getxattr(existing, "ceph.pool") == SHARED_POOL.encode()
    assert os.getxattr(existing, "ceph.namespace") == b""
    assert os.getxattr(existing, "ceph.object") == existing.name.encode()
    objects.read(existing.name)
    assert int(os.getxattr(existing, "ceph.version")) == objects.get_last_version()
    assert os.listxattr(existing) == []
    with fails(errno.EOPNOTSUPP):
        os.setxattr(existing, "ceph.pool", b"other")


def test_other_kinds(existing: Path) -> None:
    """Setting xattrs of other kinds is EOPNOTSUPP; security.* is ENODATA, but for SELinux's
    labels; RADOS hears of none."""
    result = subprocess.run(
        ["getfattr", "-n", "security.capability", existing], capture_output=True, text=True
    )
    assert "No such attribute" in result.stderr
    with fails(errno.ENODATA):
        os.getxattr(existing, "security.capability")
    for name in ("security.selinux", "system.posix_acl_access", "trusted.mine"):
        with fails(errno.EOPNOTSUPP):
            os.getxattr(existing, name)
    for name in ("trusted.mine", "security.mine", "system.posix_acl_access"):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(existing, name, b"")


def test_directories_have_none(directory: Path) -> None:
    assert os.listxattr(directory) == []
    assert os.listxattr(directory.parent) == []
    with fails(errno.ENODATA):
        os.getxattr(directory, "user.color")
    with fails(errno.EOPNOTSUPP):
        os.setxattr(directory, "user.color", b"blue")


def test_with_the_content(file: Path, objects: rados.Ioctx) -> None:
    """xattrs that are set on a new file before its first flush are stored in the same operation
    as its content."""
    with file.open("wb") as opened:
        opened.write(b"content")
        opened.flush()
        os.setxattr(opened.fileno(), "user.color", b"blue")
        os.setxattr(opened.fileno(), "user.gone", b"")
        os.removexattr(opened.fileno(), "user.gone")
        assert os.listxattr(opened.fileno()) == ["user.color"]
        with pytest.raises(rados.ObjectNotFound):
            objects.stat(file.name)
    assert stored(objects, file) == {"color": b"blue"}
    assert objects.read(file.name) == b"content"


def test_they_survive_a_rewrite(existing: Path, objects: rados.Ioctx) -> None:
    """O_TRUNC replaces the content, and leaves the xattrs."""
    os.setxattr(existing, "user.color", b"blue")
    existing.write_bytes(b"other content")
    assert stored(objects, existing) == {"color": b"blue"}
    with existing.open("wb") as opened:
        opened.write(b"third")
        os.setxattr(existing, "user.shape", b"round")
        assert sorted(os.listxattr(existing)) == ["user.color", "user.shape"]
    assert stored(objects, existing) == {"color": b"blue", "shape": b"round"}
