"""What a mount could not store, and `radosmount restore`."""

import errno
import os
import stat
from pathlib import Path

import rados

from radosmount.lab import Lab
from tests.mount.calls import can, eventually, exists, fails, opened
from tests.mount.mounting import mounted
from tests.mount.restoring import restore_words, restored
from tests.support.cluster import SHARED_POOL

EXPECTED = ["is not stored, its bytes are kept", "could not be stored, and are kept", "flush"]


def test_conflict(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """What RADOS refuses for good (EACCES, ESTALE, the pool is gone) goes to the spool at the
    last close, a local directory: close fails, and an ERROR line in the log names the file there
    and the command that writes it back.

    `radosmount restore FILE` writes what the spool has kept as the flush would have; it refuses
    where someone else has changed the object since, and `--force` overwrites it.
    """
    with mounted(lab, f"ceph:{SHARED_POOL}", expected=EXPECTED) as mount:
        path = mount.path / name
        path.write_bytes(b"begin")
        with opened(path, os.O_WRONLY | os.O_TRUNC) as descriptor:
            os.write(descriptor, b"mine!")
            objects.write_full(name, b"theirs, longer")
            with fails(errno.ESTALE):
                os.close(descriptor)
        words = restore_words(mount)
        assert path.read_bytes() == b"theirs, longer"
        spool_file = Path(words[-1])
        assert stat.S_IMODE(spool_file.stat().st_mode) == 0o600
        assert name in spool_file.name
        refused = restored(*words)
        assert (refused.returncode, refused.stdout) == (32, "")
        assert refused.stderr.startswith(f"radosmount: {spool_file}: does not overwrite '{name}'")
        assert "--force" in refused.stderr
        assert refused.stderr.count("\n") == 1
        other = restored(*words, "--keep", "--as", f"{name}-other")
        assert (other.returncode, other.stderr) == (0, "")
        assert objects.read(f"{name}-other") == b"mine!"
        forced = restored(*words, "--force")
        assert (forced.returncode, forced.stderr) == (0, "")
        assert forced.stdout.startswith(f"{spool_file}: wrote 5 bytes to '{name}' in pool")
        assert lab.rados("-p", SHARED_POOL, "get", name, "-") == b"mine!"
        assert not spool_file.exists()
        assert path.read_bytes() == b"mine!"
        gone = restored(*words)
        assert gone.stderr == f"radosmount: {spool_file}: No such file or directory\n"


def test_a_pool_that_is_gone(lab: Lab, name: str) -> None:
    """The spool has what could not be stored in a pool that was removed."""
    pool = f"{name}-removed"
    lab.create_pool(pool)
    expected = [*EXPECTED, "was removed", "pool"]
    with mounted(lab, "ceph:", expected=expected) as mount:
        path = mount.path / pool / "file"
        path.write_bytes(b"content")
        with opened(path, os.O_RDWR | os.O_TRUNC) as descriptor:
            lab.delete_pool(pool)

            def is_gone() -> bool:
                os.pwrite(descriptor, b"unstored", 0)
                return not can(lambda: os.fsync(descriptor), errno.ENOENT)

            eventually(is_gone)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"unstored", 0)
            with fails(errno.ENOENT):
                os.close(descriptor)
        words = restore_words(mount)
        assert f"its pool '{pool}'" in restored(*words).stderr
        lab.create_pool(pool)
        assert "made anew: --force" in restored(*words).stderr
        assert restored(*words, "--force").returncode == 0
        assert lab.rados("-p", pool, "get", "file", "-") == b"unstored"
    lab.delete_pool(pool)


def test_no_place_for_the_spool(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """Without a place for the spool, the bytes are lost: the log says so, at the mount and then,
    and the mount goes on."""
    expected = [*EXPECTED, "is not fit", "are lost: .* nor spooled: .*Not a directory"]
    with mounted(lab, f"ceph:{SHARED_POOL}", "spool=/dev/null/spool", expected=expected) as mount:
        assert "the spool /dev/null/spool is not fit: /dev/null is no directory" in mount.log()
        path = mount.path / name
        with opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
            os.write(descriptor, b"mine")
            objects.write_full(name, b"theirs")
            with fails(errno.ESTALE):
                os.close(descriptor)
        eventually(lambda: "are lost" in mount.log())
        assert path.read_bytes() == b"theirs"
        path.unlink()
        assert not exists(objects, name)


def test_no_spool_file(lab: Lab, tmp_path: Path) -> None:
    """Every failure is one plain line, and each file has its own."""
    (tmp_path / "a").write_bytes(b"nonsense")
    result = restored("restore", "-c", str(lab.conf_path), str(tmp_path / "a"), str(tmp_path / "b"))
    assert result.returncode == 32
    assert result.stderr.splitlines() == [
        f"radosmount: {tmp_path}/a: is no spool file",
        f"radosmount: {tmp_path}/b: No such file or directory",
    ]
