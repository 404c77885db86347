"""What open, read, write, truncate, rename, unlink and utimens do, by system calls."""

import ctypes
import errno
import mmap
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import rados

from radosmount.config import MIB
from radosmount.lab import Lab
from tests.mount.calls import fails, object_of, opened
from tests.mount.mounting import Mount, mounted
from tests.support.cluster import SHARED_POOL

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
libc: Final = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def mtime_of(objects: rados.Ioctx, path: Path) -> int:
    """As `rados stat` tells it. The binding makes local time of it."""
    return int(time.mktime(objects.stat(path.name)[1]))


def test_close_and_fsync_store(file: Path, objects: rados.Ioctx) -> None:
    """When fsync, fdatasync or close returns 0, the data is acknowledged by RADOS (all
    replicas)."""
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.write(descriptor, b"one")
        os.fsync(descriptor)
        assert object_of(objects, file) == b"one"
        os.write(descriptor, b"two")
        os.fdatasync(descriptor)
        assert object_of(objects, file) == b"onetwo"
        os.write(descriptor, b"three")
        os.close(descriptor)
        assert object_of(objects, file) == b"onetwothree"


def test_close_of_a_duplicate_stores(file: Path, objects: rados.Ioctx) -> None:
    """close(2) of any duplicate of a descriptor stores what was written."""
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.write(descriptor, b"content")
        os.close(os.dup(descriptor))
        assert object_of(objects, file) == b"content"


def test_mmap_after_close(file: Path, objects: rados.Ioctx) -> None:
    """What a program writes through mmap after close is stored when the mapping is gone."""
    file.write_bytes(bytes(10_000))
    descriptor = os.open(file, os.O_RDWR)
    mapping = mmap.mmap(descriptor, 10_000)
    os.close(descriptor)
    mapping[5000:5004] = b"late"
    mapping.close()
    deadline_s = time.monotonic() + 20
    while objects.read(file.name, 4, 5000) != b"late":  # munmap(2) does not wait
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_read_your_writes(file: Path) -> None:
    """On one mount, a read sees every write that returned before it."""
    with opened(file, os.O_RDWR | os.O_CREAT) as writer:
        for number in range(50):
            os.pwrite(writer, b"%06d" % number, number * 3)
            with opened(file, os.O_RDONLY) as reader:
                assert os.pread(reader, 6, number * 3) == b"%06d" % number
                assert os.fstat(reader).st_size == number * 3 + 6


def test_sparse_writes(file: Path, objects: rados.Ioctx) -> None:
    """Gaps read as zeros, in the file and in the object."""
    expected = bytearray(3 * MIB + 5)
    with opened(file, os.O_RDWR | os.O_CREAT) as descriptor:
        for offset in (3 * MIB, MIB - 2, 17):
            os.pwrite(descriptor, b"bytes", offset)
            expected[offset : offset + 5] = b"bytes"
        assert os.pread(descriptor, len(expected) + 1, 0) == expected
    assert object_of(objects, file) == expected


@pytest.mark.parametrize("size", [0, 1, 5000, 3 * MIB])
@pytest.mark.parametrize("how", ["path", "handle"])
def test_truncate(size: int, how: str, file: Path, objects: rados.Ioctx) -> None:
    """truncate(2) stores at once; ftruncate(2) with the close. Both shrink and grow."""
    content = os.urandom(2 * MIB)
    file.write_bytes(content)
    if how == "path":
        os.truncate(file, size)
    else:
        with opened(file, os.O_WRONLY) as descriptor:
            os.ftruncate(descriptor, size)
    expected = content[:size].ljust(size, b"\0")
    assert object_of(objects, file) == expected
    assert file.read_bytes() == expected


def test_a_write_beyond_one_object(file: Path, objects: rados.Ioctx) -> None:
    """A write beyond the size of one object (128 MiB by default) fails with EFBIG at once, and
    nothing that was written before it is lost."""
    piece = os.urandom(MIB)
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        for _ in range(128):
            assert os.write(descriptor, piece) == MIB
        for _ in range(2):
            with fails(errno.EFBIG):
                os.write(descriptor, piece)
        os.close(descriptor)
    assert file.stat().st_size == 128 * MIB
    for number in (0, 63, 127):
        assert objects.read(file.name, MIB, number * MIB) == piece
    with fails(errno.EFBIG):
        os.truncate(file, 128 * MIB + 1)
    file.unlink()


def test_append_is_at_the_end(file: Path, lab: Lab, objects: rados.Ioctx) -> None:
    """O_APPEND writes at the end wherever the offset is, also at an end that another client
    has moved since."""
    file.write_bytes(b"begin ")
    with opened(file, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b"middle ")
        os.fsync(descriptor)
        objects.write(file.name, b"foreign ", len(b"begin middle "))
        os.write(descriptor, b"end")
    assert object_of(objects, file) == b"begin middle foreign end"


def test_unlink_of_an_open_file(file: Path, objects: rados.Ioctx) -> None:
    """The content of an unlinked or replaced file stays readable and writable through the
    handles that are open on this mount."""
    content = bytearray(os.urandom(3 * MIB))
    file.write_bytes(content)
    with opened(file, os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"changed", 1000)
        content[1000:1007] = b"changed"
        file.unlink()
        with pytest.raises(rados.ObjectNotFound):
            objects.stat(file.name)
        assert os.pread(descriptor, 4 * MIB, 0) == content
        os.pwrite(descriptor, b"more", 3 * MIB)
        assert os.pread(descriptor, 10, 3 * MIB - 4) == bytes(content[-4:]) + b"more"
        os.ftruncate(descriptor, 10)
        assert os.fstat(descriptor).st_size == 10
        assert os.fstat(descriptor).st_nlink == 0
        os.fsync(descriptor)
        file.write_bytes(b"another file of that name")
        assert os.pread(descriptor, 100, 0) == content[:10]
    assert object_of(objects, file) == b"another file of that name"


def test_rename_over_an_open_file(file: Path, objects: rados.Ioctx) -> None:
    """The content of an unlinked or replaced file stays readable and writable through the
    handles that are open on this mount."""
    fresh = file.with_name(f"{file.name}.new")
    file.write_bytes(b"old content")
    fresh.write_bytes(b"new")
    with opened(file, os.O_RDWR) as old, opened(fresh, os.O_RDWR) as new:
        os.rename(fresh, file)
        assert os.pread(old, 100, 0) == b"old content"
        os.pwrite(old, b"OLD", 0)
        assert os.pread(old, 100, 0) == b"OLD content"
        assert os.pread(new, 100, 0) == b"new"
        os.pwrite(new, b" through the old handle", 3)
    assert object_of(objects, file) == b"new through the old handle"
    assert file.read_bytes() == b"new through the old handle"


def test_rename_of_a_dirty_file(file: Path, objects: rados.Ioctx) -> None:
    """What was written before a rename and not stored yet goes to the new name."""
    target = file.with_name(f"{file.name}.target")
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.write(descriptor, b"before ")
        os.rename(file, target)
        os.write(descriptor, b"after")
    assert object_of(objects, target) == b"before after"
    with pytest.raises(rados.ObjectNotFound):
        objects.stat(file.name)


def test_rename_takes_all_along(file: Path, lab: Lab, objects: rados.Ioctx) -> None:
    """rename onto a name replaces its content, xattrs, omap and mtime, up to 90 MiB in one
    operation: a reader of that name sees the old file or the new one."""
    target = file.with_name(f"{file.name}.target")
    for path, key in ((file, "new"), (target, "old")):
        path.write_bytes(key.encode())
        os.setxattr(path, f"user.{key}", b"value")
        lab.rados("-p", SHARED_POOL, "setomapval", path.name, f"{key}-key", "omap")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    version = int(os.getxattr(target, "ceph.version"))
    os.rename(file, target)
    assert object_of(objects, target) == b"new"
    assert os.listxattr(target) == ["user.new"]
    assert lab.rados("-p", SHARED_POOL, "listomapkeys", target.name).split() == [b"new-key"]
    assert mtime_of(objects, target) == 1_000_000_000
    assert target.stat().st_mtime == 1_000_000_000
    assert int(os.getxattr(target, "ceph.version")) > version


def test_a_reader_during_renames(file: Path, objects: rados.Ioctx) -> None:
    """rename onto a name replaces its content, xattrs, omap and mtime, up to 90 MiB in one
    operation: a reader of that name sees the old file or the new one."""
    contents = [os.urandom(MIB) for _ in range(3)]
    file.write_bytes(contents[0])
    script = (
        "import os, sys\n"
        "for i in range(60):\n"
        "    new = sys.argv[1] + '.new'\n"
        "    open(new, 'wb').write(open(sys.argv[2 + i % 3], 'rb').read())\n"
        "    os.rename(new, sys.argv[1])\n"
    )
    sources = [file.with_name(f"{file.name}.{number}") for number in range(3)]
    for source, content in zip(sources, contents, strict=True):
        source.write_bytes(content)
    renamer = subprocess.Popen(["/usr/bin/python3", "-c", script, file, *sources])
    seen = set()
    while renamer.poll() is None:
        seen.add(objects.read(file.name, 2 * MIB))
    assert renamer.returncode == 0
    assert seen <= set(contents)


def test_rename_flags(file: Path, objects: rados.Ioctx) -> None:
    """RENAME_NOREPLACE renames onto no name that is there; RENAME_EXCHANGE and RENAME_WHITEOUT
    are EINVAL."""
    target = file.with_name(f"{file.name}.target")
    file.write_bytes(b"source")
    objects.write_full(target.name, b"target")
    with fails(errno.EEXIST):
        renameat2(file, target, RENAME_NOREPLACE)
    for flags in (RENAME_EXCHANGE, RENAME_WHITEOUT):
        with fails(errno.EINVAL):
            renameat2(file, target, flags)
    assert object_of(objects, target) == b"target"
    target.unlink()
    renameat2(file, target, RENAME_NOREPLACE)
    assert object_of(objects, target) == b"source"
    assert not file.exists()


def test_rename_onto_itself_and_of_nothing(file: Path) -> None:
    with fails(errno.ENOENT):
        os.rename(file, file.with_name(f"{file.name}.target"))
    file.write_bytes(b"content")
    os.rename(file, file)
    assert file.read_bytes() == b"content"


MTIME_S = 1_234_567_890


@pytest.mark.parametrize(
    "command",
    [
        "touch -d @{mtime} {file}",
        "cp -p {source} {file}",
        "rsync -t {source} {file}",
        "cp -a {source} {file}",
        "tar -C {parent} -cf - {name} | tar -C {directory} -xf -",
    ],
)
def test_mtime_of_programs(command: str, file: Path, tmp_path: Path, objects: rados.Ioctx) -> None:
    """Size and mtime are the object's own. `touch -d`, `cp -p`, `tar` and `rsync -t` set the
    mtime in RADOS itself, in whole seconds."""
    source = tmp_path / file.name
    source.write_bytes(b"content")
    file.write_bytes(b"older")
    os.utime(source, (MTIME_S, MTIME_S))
    words = {"mtime": MTIME_S, "source": source, "parent": tmp_path, "name": file.name}
    shell = command.format(file=file, directory=file.parent, **words)
    subprocess.run(shell, shell=True, check=True, timeout=60)
    assert file.stat().st_mtime == MTIME_S
    assert mtime_of(objects, file) == MTIME_S
    assert file.stat().st_size == objects.stat(file.name)[0]
    file.read_bytes()
    assert mtime_of(objects, file) == MTIME_S


def test_mtime_set_before_the_flush(file: Path, objects: rados.Ioctx) -> None:
    """futimens on an open file counts over the writes before it, and a write after over it."""
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.write(descriptor, b"content")
        os.utime(descriptor, (MTIME_S, MTIME_S))
    assert mtime_of(objects, file) == MTIME_S
    before_s = int(time.time())
    with opened(file, os.O_WRONLY) as descriptor:
        os.utime(descriptor, (MTIME_S, MTIME_S))
        os.write(descriptor, b"content")
    assert mtime_of(objects, file) >= before_s


def test_mtime_survives_setfattr(file: Path, objects: rados.Ioctx) -> None:
    """Setting an xattr leaves the mtime as it is."""
    file.write_bytes(b"content")
    os.utime(file, (MTIME_S, MTIME_S))
    os.setxattr(file, "user.color", b"blue")
    os.removexattr(file, "user.color")
    assert mtime_of(objects, file) == MTIME_S
    assert file.stat().st_mtime == MTIME_S


def test_a_write_moves_the_mtime(file: Path, objects: rados.Ioctx) -> None:
    file.write_bytes(b"content")
    os.utime(file, (MTIME_S, MTIME_S))
    with opened(file, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"C")
    assert time.time() - mtime_of(objects, file) < 60
    assert file.stat().st_mtime == mtime_of(objects, file)


def test_setting_atime_alone_changes_nothing(file: Path, objects: rados.Ioctx) -> None:
    file.write_bytes(b"content")
    os.utime(file, (MTIME_S, MTIME_S))
    subprocess.run(["touch", "-a", file], check=True, timeout=60)
    assert mtime_of(objects, file) == MTIME_S


def refusals(root: Path, file: Path) -> list[tuple[int, Callable[[], object]]]:
    pool, source = file.parent, file.with_name(f"{file.name}.source")
    source.write_bytes(b"content")
    return [
        (errno.EPERM, lambda: (root / "new-pool").mkdir()),
        (errno.EEXIST, pool.mkdir),
        (errno.EPERM, pool.rmdir),
        (errno.EPERM, lambda: os.rename(pool, root / "other")),
        (errno.EPERM, lambda: (root / "file").write_bytes(b"")),
        (errno.EPERM, lambda: os.rename(source, root / "file")),
        (errno.ENOENT, file.rmdir),
        (errno.ENOTDIR, source.rmdir),
        (errno.EPERM, lambda: file.symlink_to("target")),
        (errno.EPERM, lambda: file.hardlink_to(source)),
        (errno.EPERM, lambda: os.mkfifo(file)),
        (errno.EPERM, lambda: os.mknod(file, stat.S_IFCHR, os.makedev(1, 3))),
        (errno.EPERM, lambda: os.mknod(file, stat.S_IFSOCK)),
        (errno.EEXIST, lambda: os.mknod(source, stat.S_IFREG)),
        (errno.EISDIR, pool.unlink),
        (errno.EISDIR, lambda: os.open(pool, os.O_WRONLY)),
        (errno.EINVAL, lambda: (pool / ".snap").write_bytes(b"")),
        (errno.EINVAL, lambda: (pool / "a%@").write_bytes(b"")),
        (errno.ENOENT, lambda: (pool / ".snap").stat()),
        (errno.ENOENT, lambda: (pool / "nonesuch").stat()),
        (errno.ENOENT, lambda: (root / "nonesuch").stat()),
        (errno.ENOENT, lambda: (pool / "nonesuch").unlink()),
        (errno.ENOTDIR, lambda: (source / "below").stat()),
        (errno.ENAMETOOLONG, lambda: (pool / ("x" * 256)).write_bytes(b"")),
    ]


@pytest.mark.parametrize("index", range(24))
def test_what_cannot_work(index: int, root: Path, file: Path) -> None:
    """Each operation that cannot work has the errno that docs/semantics.md tells."""
    number, operation = refusals(root, file)[index]
    with fails(number):
        operation()


def test_rename_to_another_pool(root: Path, file: Path, pool: str) -> None:
    file.write_bytes(b"content")
    with fails(errno.EXDEV):
        os.rename(file, root / pool / "target")


def test_mknod_of_a_regular_file(file: Path, objects: rados.Ioctx) -> None:
    os.mknod(file, stat.S_IFREG | 0o644)
    assert objects.stat(file.name)[0] == 0
    assert file.stat().st_size == 0


def test_chmod_and_chown_have_no_effect(lab: Lab, name: str) -> None:
    """chmod and chown succeed without effect, and a line in the log says so once; with `-o
    strict_modes` they fail with EPERM."""
    notice = "chmod and chown have no effect"
    with mounted(lab, f"ceph:{SHARED_POOL}", expected=[notice]) as mount:
        path = mount.path / name
        path.write_bytes(b"content")
        path.chmod(0o600)
        os.chown(path, 1000, 1000)
        path.chmod(0o640)
        found = path.stat()
        assert (found.st_mode, found.st_uid) == (stat.S_IFREG | 0o644, os.getuid())
        assert mount.log().count(notice) == 1
    with mounted(lab, f"ceph:{SHARED_POOL}", "strict_modes") as mount:
        path = mount.path / name
        path.chmod(0o644)  # what it has already
        with fails(errno.EPERM):
            path.chmod(0o600)
        with fails(errno.EPERM):
            os.chown(path, 1000, 1000)


@pytest.mark.parametrize(
    ("options", "file_mode", "directory_mode", "uid", "gid"),
    [
        ("uid=1001,gid=1002,fmode=640,dmode=750", 0o640, 0o750, 1001, 1002),
        ("umask=027", 0o640, 0o750, 0, 0),
        ("umask=077,fmode=755", 0o755, 0o700, 0, 0),
    ],
)
def test_modes_of_the_mount(
    options: str, file_mode: int, directory_mode: int, uid: int, gid: int, lab: Lab, name: str
) -> None:
    """Mode, owner and group are the mount's: `uid=`, `gid=`, `umask=`, `fmode=`, `dmode=`."""
    with mounted(lab, "ceph:", options) as mount:
        file = mount.path / SHARED_POOL / name
        file.write_bytes(b"")
        for path, mode in ((file, file_mode), (file.parent, directory_mode)):
            found = path.stat()
            assert stat.S_IMODE(found.st_mode) == mode
            assert os.access(path, os.R_OK | os.W_OK)
            assert os.access(path, os.X_OK) == bool(mode & 0o111 or path.is_dir())
            assert (found.st_uid, found.st_gid) == (uid, gid)


def read_only_refusals(path: Path) -> list[Callable[[], object]]:
    return [
        lambda: path.write_bytes(b"new"),
        path.unlink,
        lambda: path.with_name("created").write_bytes(b""),
        lambda: os.truncate(path, 1),
        lambda: os.utime(path),
        lambda: os.setxattr(path, "user.color", b"blue"),
        lambda: os.rename(path, path.with_name("renamed")),
    ]


def test_read_only(lab: Lab, objects: rados.Ioctx, name: str) -> None:
    """With `-o ro` every change is EROFS, and reading works."""
    objects.write_full(name, b"content")
    with mounted(lab, f"ceph:{SHARED_POOL}", "ro") as mount:
        path = mount.path / name
        assert path.read_bytes() == b"content"
        for operation in read_only_refusals(path):
            with fails(errno.EROFS):
                operation()


def test_many_open_files(directory: Path, name: str) -> None:
    """300 files that are being written at once, closed in another order."""
    paths = [directory / f"{name}-{number}" for number in range(300)]
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
    for number, descriptor in enumerate(descriptors):
        os.write(descriptor, b"%d" % number)
    for descriptor in reversed(descriptors):
        os.close(descriptor)
    assert [int(path.read_bytes()) for path in paths] == list(range(300))


def test_changes_in_mid_listing(directory: Path, name: str) -> None:
    """A listing goes on while files come and go: what was there all the time shows once."""
    stays = {f"{name}-stays-{number}" for number in range(20)}
    for stay in stays:
        (directory / stay).write_bytes(b"")
    with os.scandir(directory) as entries:
        listed = []
        for index, entry in enumerate(entries):
            listed.append(entry.name)
            (directory / f"{name}-new-{index % 7}").write_bytes(b"")
    assert stays <= set(listed)
    assert len(listed) == len(set(listed))


def test_fsync_of_a_directory_stores_all_below(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    with mounted(lab, f"ceph:{SHARED_POOL}", "flush=lazy,dirty_expire=3600") as mount:
        for number in range(5):
            (mount.path / f"{name}-{number}").write_bytes(b"%d" % number)
        with opened(mount.path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
        for number in range(5):
            assert objects.read(f"{name}-{number}") == b"%d" % number


def test_no_change_by_reading(all_pools: Mount, file: Path, objects: rados.Ioctx) -> None:
    """Reading, listing and closing leave the object's version alone."""
    file.write_bytes(b"content")
    version = os.getxattr(file, "ceph.version")
    with opened(file, os.O_RDWR) as descriptor:
        os.read(descriptor, 10)
    list(file.parent.iterdir())
    assert os.getxattr(file, "ceph.version") == version
