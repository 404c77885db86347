"""Pools as directories: which show, who may write, what df tells."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import rados

from radosmount.config import MIB
from radosmount.lab import Lab
from radosmount.vfs.pools import REFRESH_INTERVAL_S
from tests.mount.calls import can, eventually, exists, fails, opened
from tests.mount.mounting import mounted
from tests.mount.test_files import read_only_refusals
from tests.support.cluster import SHARED_POOL

SLACK_S = 10.0  # for a busy machine


@pytest.fixture(scope="module")
def reader(lab: Lab) -> tuple[str, ...]:
    """The words that make a mount that of a client which may only read the shared pool."""
    keyring = lab.add_user("mount-reader", mon="allow r", osd=f"allow r pool={SHARED_POOL}")
    return ("--id", "mount-reader", "-k", str(keyring))


@pytest.mark.parametrize("source", ["ceph:", f"ceph:{SHARED_POOL}"])
def test_a_client_that_may_only_read(
    source: str, lab: Lab, reader: tuple[str, ...], objects: rados.Ioctx, name: str, pool: str
) -> None:
    """Without the caps to write, opening for writing fails with EACCES. Reading works."""
    objects.write_full(name, b"content")
    objects.set_xattr(name, "color", b"blue")
    with mounted(lab, source, words=reader) as mount:
        directory = mount.path / SHARED_POOL if source == "ceph:" else mount.path
        path = directory / name
        assert path.read_bytes() == b"content"
        assert os.getxattr(path, "user.color") == b"blue"
        assert name in os.listdir(directory)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with fails(errno.EACCES):
                os.open(path, flags)
        for operation in read_only_refusals(path):
            with fails(errno.EACCES):
                operation()
        assert os.access(path, os.R_OK)
        assert not os.access(path, os.W_OK)
        assert not os.access(directory, os.W_OK)
        for words in (["ls", "-la"], ["df"], ["find"], ["stat"]):
            result = subprocess.run([*words, mount.path], capture_output=True, timeout=60)
            assert (result.returncode, result.stderr) == (0, b"")
    assert objects.read(name) == b"content"


def test_the_root_hides_what_may_not_be_read(lab: Lab, reader: tuple[str, ...], pool: str) -> None:
    """Every pool that may be read is a directory of the root; one that answers EPERM is
    hidden."""
    with mounted(lab, "ceph:", words=reader) as mount:
        eventually(lambda: os.listdir(mount.path) == [SHARED_POOL])
        result = subprocess.run(["ls", "-lR", mount.path], capture_output=True, timeout=60)
        assert (result.returncode, result.stderr) == (0, b"")


def test_the_root_shows_pools(root: Path, lab: Lab, pool: str) -> None:
    """Every pool that may be read is a directory of the root; one that answers EPERM is
    hidden."""
    (root / pool / "file").write_bytes(b"in a new pool")  # at once
    eventually(lambda: set(os.listdir(root)) == set(lab.ceph("osd", "pool", "ls").split()))
    assert lab.rados("-p", pool, "get", "file", "-") == b"in a new pool"


@pytest.mark.parametrize("application", ["rbd", "cephfs", "rgw", "mgr"])
def test_pools_of_others(application: str, root: Path, lab: Lab, name: str) -> None:
    """A pool of rbd, CephFS, RGW or the manager is read-only (EROFS) unless it is named in
    SOURCE or in `-o rw_pools=`."""
    pool = f"{name}-{application}"
    lab.create_pool(pool, application)
    lab.rados("-p", pool, "put", "object", "-", input=b"content")
    path = root / pool / "object"
    assert path.read_bytes() == b"content"
    # The mount may have heard of the pool before its application was set.
    eventually(lambda: not os.access(path, os.W_OK))
    for operation in read_only_refusals(path):
        with fails(errno.EROFS):
            operation()
    with mounted(lab, f"ceph:{pool}") as mount:
        assert os.access(mount.path / "object", os.W_OK)
        (mount.path / "object").write_bytes(b"by source")
    assert path.read_bytes() == b"by source"
    with mounted(lab, "ceph:", f"rw_pools=other:{pool}") as mount:
        (mount.path / pool / "object").write_bytes(b"by option")
    assert path.read_bytes() == b"by option"
    lab.delete_pool(pool)


def test_a_pool_that_gets_an_application(root: Path, lab: Lab, pool: str) -> None:
    """What `ceph osd pool application enable` says of a pool that is shown counts within 10 s."""
    path = root / pool / "object"
    path.write_bytes(b"before")
    lab.ceph("osd", "pool", "application", "enable", pool, "rbd", "--yes-i-really-mean-it")
    eventually(lambda: not os.access(path, os.W_OK), within_s=REFRESH_INTERVAL_S + SLACK_S)
    with fails(errno.EROFS):
        path.write_bytes(b"after")
    assert path.read_bytes() == b"before"


def test_a_namespace(lab: Lab, namespace: str, objects: rados.Ioctx, name: str) -> None:
    """SOURCE may name a namespace of a pool: nothing else of the pool is seen."""
    objects.write_full(name, b"outside")
    with mounted(lab, f"ceph:{SHARED_POOL}/{namespace}") as mount:
        assert os.listdir(mount.path) == []
        (mount.path / name).write_bytes(b"inside")
        (mount.path / f"{name}-other").write_bytes(b"")
        assert sorted(os.listdir(mount.path)) == [name, f"{name}-other"]
        assert os.getxattr(mount.path / name, "ceph.namespace") == namespace.encode()
    assert objects.read(name) == b"outside"
    assert lab.rados("-p", SHARED_POOL, "-N", namespace, "get", name, "-") == b"inside"
    assert not exists(objects, f"{name}-other")


def test_df(lab: Lab, pool: str) -> None:
    """df shows the pool's stored bytes and what it may still take; of a mount of all pools, the
    cluster's."""
    with mounted(lab, f"ceph:{pool}") as mount, mounted(lab, "ceph:") as everything:
        for number in range(5):
            (mount.path / str(number)).write_bytes(os.urandom(MIB))

        def used_bytes() -> int:
            found = os.statvfs(mount.path)
            return (found.f_blocks - found.f_bfree) * found.f_frsize

        eventually(lambda: used_bytes() == 5 * MIB)
        found = os.statvfs(mount.path)
        assert found.f_files == 5
        assert found.f_bavail * found.f_frsize > 1024 * MIB
        assert found.f_namemax == 255
        whole = os.statvfs(everything.path)
        assert whole.f_blocks * whole.f_frsize >= 20000 * MIB
        assert 0 < whole.f_bavail <= whole.f_blocks
        shown = subprocess.run(["df", "-h", mount.path], capture_output=True, text=True)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "5.0M" in shown.stdout
        lab.ceph("osd", "pool", "set-quota", pool, "max_bytes", str(64 * MIB))
        eventually(lambda: os.statvfs(mount.path).f_blocks * 4096 == 64 * MIB)


REMOVED = ["is not stored", "could not be stored", "was removed", "pool", "ERROR"]


def test_a_pool_is_removed(lab: Lab, name: str) -> None:
    """One bad request never ends the mount, nor does the removal of a pool."""
    pool = f"{name}-removed"
    lab.create_pool(pool)
    with mounted(lab, "ceph:", expected=REMOVED) as mount:
        path = mount.path / pool / "file"
        path.write_bytes(b"content")
        os.listdir(mount.path / pool)
        with opened(path, os.O_RDWR) as descriptor:
            lab.delete_pool(pool)

            def is_gone() -> bool:
                os.pwrite(descriptor, b"unstored", 0)
                return not can(lambda: os.fsync(descriptor), errno.ENOENT)

            eventually(is_gone)  # some moments after the monitor has said so
            with fails(errno.ENOENT):
                os.close(descriptor)
        eventually(lambda: pool not in os.listdir(mount.path))
        with fails(errno.ENOENT):
            path.read_bytes()
        other = mount.path / SHARED_POOL / name
        other.write_bytes(b"lives")
        assert other.read_bytes() == b"lives"
        lab.create_pool(pool)  # of the same name: another pool
        eventually(lambda: pool in os.listdir(mount.path))
        assert os.listdir(mount.path / pool) == []
        path.write_bytes(b"new")
        assert lab.rados("-p", pool, "get", "file", "-") == b"new"
    lab.delete_pool(pool)
