"""What is refused has the errno that Linux documents for it, and nothing changes in RADOS.

Each row of "What cannot work" (docs/semantics.md) has a test whose docstring begins as the row
does; `tests/test_semantics.py` sees to that.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import rados

from radosmount.config import MIB
from radosmount.fuse.mounts import find_mount
from radosmount.lab import Lab
from tests.mount.calls import fails, opened
from tests.mount.mounting import Mount, mounted
from tests.mount.test_files import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    libc,
    renameat2,
)

POOL: Final = "refusals"
OTHER_POOL: Final = "refusals-other"
FOREIGN_POOL: Final = "refusals-rbd"  # read-only, since it is rbd's
OBJECTS: Final = ["file", "empty/", "full/", "full/inner"]  # of each pool; a/ is a directory
CONTENT: Final = b"content"

FICLONE: Final = 0x40049409  # linux/fs.h
# An ACL of three entries, as acl(5) has it in system.posix_acl_access.
ACL: Final = bytes.fromhex(
    "02000000 01000600ffffffff 02000400 01000000 04000400ffffffff 10000400ffffffff20000400ffffffff"
)
Contents = dict[tuple[str, str, str], tuple[int, bytes]]
Places = dict[tuple[str, str], rados.Ioctx]  # by pool and namespace

pytestmark = pytest.mark.usefixtures("unchanged")


@pytest.fixture(scope="module")
def places(lab: Lab, cluster: rados.Rados) -> Places:
    """Three pools with the same objects; POOL has a namespace, and may get another."""
    for pool in (POOL, OTHER_POOL):
        lab.create_pool(pool)
    lab.create_pool(FOREIGN_POOL, "rbd")
    found = {(pool, ""): cluster.open_ioctx(pool) for pool in (POOL, OTHER_POOL, FOREIGN_POOL)}
    for ioctx in found.values():
        for name in OBJECTS:
            ioctx.write_full(name, b"" if name.endswith("/") else CONTENT)
        ioctx.set_xattr("file", "color", b"blue")
    for namespace in ("space", "new"):
        found[POOL, namespace] = cluster.open_ioctx(POOL)
        found[POOL, namespace].set_namespace(namespace)
    found[POOL, "space"].write_full("file", CONTENT)
    return found


def contents(places: Places) -> Contents:
    """Version and content of every object, as another client sees them."""
    found: Contents = {}
    for (pool, namespace), ioctx in places.items():
        for listed in ioctx.list_objects():
            content = ioctx.read(listed.key, MIB)
            found[pool, namespace, listed.key] = ioctx.get_last_version(), content
    return found


@pytest.fixture
def unchanged(places: Places) -> Iterator[None]:
    """After each test every object is what it was."""
    before = contents(places)
    yield
    assert contents(places) == before


@pytest.fixture(scope="module")
def flat_mount(lab: Lab, places: Places) -> Iterator[Mount]:
    with mounted(lab, "ceph:", "names=flat") as mount:
        yield mount


@pytest.fixture(scope="module")
def tree_mount(lab: Lab, places: Places) -> Iterator[Mount]:
    with mounted(lab, "ceph:", "names=tree") as mount:
        yield mount


@pytest.fixture(params=["flat", "tree"])
def root(request: pytest.FixtureRequest) -> Path:
    """Of all pools, in either view."""
    mount: Mount = request.getfixturevalue(f"{request.param}_mount")
    return mount.path


@pytest.fixture
def pool_path(root: Path) -> Path:
    """Of POOL, in either view."""
    return root / POOL


@pytest.fixture
def flat(flat_mount: Mount) -> Path:
    return flat_mount.path / POOL


@pytest.fixture
def tree(tree_mount: Mount) -> Path:
    return tree_mount.path / POOL


def refused(number: int, call: Callable[..., object], *words: object, **named: object) -> None:
    with fails(number):
        call(*words, **named)


def refused_on(
    number: int, path: Path, flags: int, call: Callable[..., object], *words: object
) -> None:
    """The same of a call whose first word is a descriptor."""
    with opened(path, flags) as descriptor, fails(number):
        call(descriptor, *words)


def create(path: Path | str, dir_fd: int | None = None) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666, dir_fd=dir_fd))


def make_file(path: Path) -> None:
    os.mknod(path, stat.S_IFREG | 0o644)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    words = (ctypes.c_long(offset), ctypes.c_long(length))
    if libc.fallocate(descriptor, mode, *words):
        raise OSError(ctypes.get_errno(), "fallocate")


# The rows of "What cannot work"


def test_directories_of_the_root(root: Path) -> None:
    """| mkdir, rmdir in the root | EPERM |"""
    refused(errno.EPERM, os.mkdir, root / "new")
    refused(errno.EPERM, os.rmdir, root / OTHER_POOL)


def test_mkdir_in_the_flat_view(flat: Path) -> None:
    """| mkdir in a pool with `names=flat` | EPERM |"""
    refused(errno.EPERM, os.mkdir, flat / "new")


def test_rename_of_a_directory(tree: Path) -> None:
    """| rename of a directory (`names=tree`) | EXDEV |"""
    for name in ("full", "empty"):
        refused(errno.EXDEV, os.rename, tree / name, tree / "new")
        refused(errno.EXDEV, os.rename, tree / name, tree.parent / OTHER_POOL / "new")
    refused(errno.EXDEV, os.rename, tree / "full", tree / "empty")


@pytest.mark.parametrize("name", ["space", "new"])
def test_directories_in_nspace(name: str, pool_path: Path) -> None:
    """| mkdir in `.nspace` | EEXIST |"""
    refused(errno.EEXIST, os.mkdir, pool_path / ".nspace" / name)


@pytest.mark.parametrize("name", ["space", "new"])
def test_files_in_nspace(name: str, pool_path: Path) -> None:
    """| a file in `.nspace` | EISDIR |"""
    refused(errno.EISDIR, create, pool_path / ".nspace" / name)
    refused(errno.EISDIR, os.rename, pool_path / "file", pool_path / ".nspace" / name)


def test_namespaces_stay(pool_path: Path) -> None:
    """| rename, rmdir of a namespace | EPERM |"""
    space = pool_path / ".nspace" / "space"
    refused(errno.EPERM, os.rename, space, space.with_name("new"))
    refused(errno.EPERM, os.rename, space, pool_path / "new")
    refused(errno.EPERM, os.rmdir, space)


def test_rename_of_a_pool(root: Path) -> None:
    """| rename of a pool | EPERM |"""
    for target in (root / "new", root / OTHER_POOL, root / OTHER_POOL / "new"):
        refused(errno.EPERM, os.rename, root / POOL, target)


def test_files_in_the_root(root: Path) -> None:
    """| a file in the root | EPERM |"""
    refused(errno.EPERM, create, root / "new")
    refused(errno.EPERM, make_file, root / "new")
    refused(errno.EPERM, os.rename, root / POOL / "file", root / "new")


def test_rename_to_another_pool(root: Path) -> None:
    """| rename to another pool or namespace | EXDEV |"""
    for target in (root / OTHER_POOL, root / POOL / ".nspace" / "space"):
        refused(errno.EXDEV, os.rename, root / POOL / "file", target / "new")
        refused(errno.EXDEV, os.rename, root / POOL / "file", target / "file")


def test_rename_flags(pool_path: Path) -> None:
    """| renameat2 RENAME_EXCHANGE, RENAME_WHITEOUT | EINVAL |"""
    file, new = pool_path / "file", pool_path / "new"
    other = pool_path.parent / OTHER_POOL / "file"
    refused(errno.EINVAL, renameat2, file, other, RENAME_EXCHANGE)
    refused(errno.EINVAL, renameat2, file, new, RENAME_WHITEOUT)
    refused(errno.EINVAL, renameat2, file, new, RENAME_WHITEOUT | RENAME_NOREPLACE)


def test_hard_links(pool_path: Path) -> None:
    """| hard links | EPERM |"""
    file = pool_path / "file"
    refused(errno.EPERM, os.link, file, pool_path / "new")
    refused(errno.EPERM, os.link, file, pool_path.parent / OTHER_POOL / "new")
    refused(errno.EEXIST, os.link, file, file)


def test_symbolic_links(pool_path: Path) -> None:
    """| symbolic links without `-o posix` | EPERM |"""
    refused(errno.EPERM, os.symlink, "file", pool_path / "new")
    refused(errno.EEXIST, os.symlink, "new", pool_path / "file")
    refused(errno.EINVAL, os.readlink, pool_path / "file")


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_mknod(kind: int, pool_path: Path) -> None:
    """| mknod of a device, FIFO or socket | EPERM |"""
    refused(errno.EPERM, os.mknod, pool_path / "new", kind | 0o600, os.makedev(1, 3))


CONTINUED: Final = "x" * 253 + "%~"  # names of over 255 bytes go on in this directory
NOWHERE: Final = [".snap", ".omap", ".radosmount", "%@key", "a%@", "a%@a", f"{CONTINUED}/xx"]


@pytest.mark.parametrize("name", NOWHERE)
def test_names_of_no_object(name: str, pool_path: Path) -> None:
    """| a name that no object has ([names.md](names.md)) | EINVAL, ENOENT on look-up |"""
    path = pool_path / name
    refused(errno.EINVAL, create, path)
    refused(errno.EINVAL, make_file, path)
    refused(errno.EINVAL, os.rename, pool_path / "file", path)
    for call in (os.stat, os.unlink, os.rmdir):
        refused(errno.ENOENT, call, path)
    refused(errno.ENOENT, os.rename, path, pool_path / "file")


@pytest.mark.parametrize("name", [*NOWHERE, "a%."])
def test_names_of_no_directory(name: str, tree: Path) -> None:
    """| a name that no object has ([names.md](names.md)) | EINVAL, ENOENT on look-up |"""
    refused(errno.EINVAL, os.mkdir, tree / name)
    for call in (create, os.mkdir, os.stat):
        refused(errno.ENOENT, call, tree / name / "below")


def test_long_components(pool_path: Path) -> None:
    """| a component of over 255 bytes | ENAMETOOLONG |"""
    file, long = pool_path / "file", pool_path / ("x" * 256)
    for call in (create, make_file, os.mkdir, os.rmdir, os.stat, os.unlink):
        refused(errno.ENAMETOOLONG, call, long)
    refused(errno.ENAMETOOLONG, create, long / "below")
    refused(errno.ENAMETOOLONG, os.rename, file, long)
    refused(errno.ENAMETOOLONG, os.rename, long, file)


@pytest.mark.parametrize("byte_count", [101, 250, 251])
def test_long_names_of_xattrs(byte_count: int, pool_path: Path) -> None:
    """| an xattr name of over 100 bytes after `user.` | ERANGE |

    Of more than 255 bytes with `user.` the kernel itself says so."""
    refused(errno.ERANGE, os.setxattr, pool_path / "file", "user." + "x" * byte_count, b"")


def test_xattrs_that_wait(pool_path: Path) -> None:
    """| xattrs of over 1 MiB in all on a file that RADOS does not have yet | ENOSPC |"""
    path = pool_path / "with xattrs"
    try:
        with opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
            for number in range(15):
                os.setxattr(descriptor, f"user.{number}", bytes(65536))
            with fails(errno.ENOSPC):
                os.setxattr(descriptor, "user.15", bytes(65536))
            os.fsync(descriptor)
            os.setxattr(descriptor, "user.15", bytes(65536))
        assert len(os.listxattr(path)) == 16
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def huge_xattr(lab: Lab, places: Places) -> str:
    lab.ceph("config", "set", "osd", "osd_max_attr_size", "100000")
    places[POOL, ""].set_xattr("file", "huge", bytes(70_000))
    return "user.huge"


def test_large_foreign_xattrs(huge_xattr: str, pool_path: Path) -> None:
    """| reading a foreign xattr of over 64 KiB | E2BIG |"""
    refused(errno.E2BIG, os.getxattr, pool_path / "file", huge_xattr)


@pytest.mark.parametrize(
    "name",
    ["trusted.x", "security.x", "system.x", "ceph.pool", "foo.bar", "user", "USER.x"],
)
def test_other_xattrs(name: str, pool_path: Path) -> None:
    """| setting xattrs other than `user.*` | EOPNOTSUPP |"""
    refused(errno.EOPNOTSUPP, os.setxattr, pool_path / "file", name, b"value")
    refused(errno.EOPNOTSUPP, os.removexattr, pool_path / "file", name)


def test_acls(pool_path: Path) -> None:
    """| setting xattrs other than `user.*` | EOPNOTSUPP |"""
    name = "system.posix_acl_access"
    refused(errno.EOPNOTSUPP, os.setxattr, pool_path / "file", name, ACL)
    refused(errno.EOPNOTSUPP, os.getxattr, pool_path / "file", name)


def test_selinux_labels(pool_path: Path) -> None:
    """`ls -l` asks no other file for one where the first says that there are none."""
    refused(errno.EOPNOTSUPP, os.getxattr, pool_path / "file", "security.selinux")


@pytest.mark.parametrize("name", ["capability", "x"])
def test_security_xattrs(name: str, pool_path: Path) -> None:
    """Reading `security.*` is ENODATA: the kernel asks for them by itself."""
    refused(errno.ENODATA, os.getxattr, pool_path / "file", f"security.{name}")


def test_xattrs_of_directories(tree: Path) -> None:
    """| setting xattrs of a directory | EOPNOTSUPP |"""
    for directory in (tree, tree.parent, tree / "full", tree / "empty"):
        refused(errno.EOPNOTSUPP, os.setxattr, directory, "user.color", b"blue")
        refused(errno.EOPNOTSUPP, os.removexattr, directory, "user.color")
        refused(errno.ENODATA, os.getxattr, directory, "user.color")


# 0, KEEP_SIZE, PUNCH_HOLE with KEEP_SIZE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE
@pytest.mark.parametrize("mode", [0, 1, 3, 8, 16, 32])
def test_fallocate(mode: int, pool_path: Path) -> None:
    """| fallocate(2) | EOPNOTSUPP |"""
    file = pool_path / "file"
    refused_on(errno.EOPNOTSUPP, file, os.O_RDWR, fallocate, mode, 0, 4096)


def test_files_without_a_name(root: Path) -> None:
    """| O_TMPFILE | EOPNOTSUPP |"""
    for directory in (root, root / POOL):
        refused(errno.EOPNOTSUPP, os.open, directory, os.O_TMPFILE | os.O_RDWR)


def test_reflinks(pool_path: Path) -> None:
    """| `cp --reflink=always` (FICLONE) | EOPNOTSUPP |"""
    target = pool_path.parent / OTHER_POOL / "file"
    with opened(pool_path / "file", os.O_RDONLY) as source:
        refused_on(errno.EOPNOTSUPP, target, os.O_RDWR, fcntl.ioctl, FICLONE, source)


def test_remount(lab: Lab, tree_mount: Mount) -> None:
    """| `remount` | refused |"""
    before = find_mount(str(tree_mount.path))
    words = ["-c", lab.conf_path, "ceph:", tree_mount.path, "-o", "remount,ro"]
    command = [sys.executable, "-m", "radosmount", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "remount is not possible" in result.stderr
    assert find_mount(str(tree_mount.path)) == before
    create(tree_mount.path / POOL / "new")  # it may still be written to
    os.unlink(tree_mount.path / POOL / "new")


# What every file system refuses


@pytest.mark.parametrize("byte_count", [65_537, 70_000])
def test_large_xattrs(byte_count: int, pool_path: Path) -> None:
    refused(errno.E2BIG, os.setxattr, pool_path / "file", "user.x", bytes(byte_count))


def test_flags_of_setxattr(pool_path: Path) -> None:
    file = pool_path / "file"
    refused(errno.EEXIST, os.setxattr, file, "user.color", b"", os.XATTR_CREATE)
    refused(errno.ENODATA, os.setxattr, file, "user.new", b"", os.XATTR_REPLACE)
    refused(errno.ENODATA, os.removexattr, file, "user.new")
    refused(errno.EINVAL, os.setxattr, file, "user.new", b"", 8)
    refused(errno.EINVAL, os.setxattr, file, "user.", b"")


def test_long_paths(pool_path: Path) -> None:
    path = pool_path / ("d/" * 2500) / "x"
    for call in (create, os.mkdir, os.stat):
        refused(errno.ENAMETOOLONG, call, path)
    refused(errno.ENAMETOOLONG, os.rename, pool_path / "file", path)
    refused(errno.ENAMETOOLONG, os.setxattr, path, "user.x", b"")


def test_a_read_only_pool(root: Path) -> None:
    file, new = root / FOREIGN_POOL / "file", root / FOREIGN_POOL / "new"
    for call in (os.mkdir, create, make_file):
        refused(errno.EROFS, call, new)
    for call in (os.unlink, os.utime):
        refused(errno.EROFS, call, file)
    refused(errno.EROFS, os.rename, file, new)
    refused(errno.EROFS, os.rename, file, root / POOL / "new")
    refused(errno.EROFS, os.rename, root / POOL / "file", new)
    refused(errno.EROFS, os.truncate, file, 0)
    refused(errno.EROFS, os.open, file, os.O_WRONLY)
    refused(errno.EROFS, os.open, file, os.O_RDONLY | os.O_TRUNC)
    refused(errno.EROFS, os.setxattr, file, "user.x", b"")
    refused(errno.EROFS, os.removexattr, file, "user.color")


def test_a_read_only_pool_in_the_tree_view(tree_mount: Mount) -> None:
    foreign = tree_mount.path / FOREIGN_POOL
    refused(errno.EROFS, os.rmdir, foreign / "empty")
    refused(errno.EROFS, os.mkdir, foreign / "full" / "new")
    refused(errno.EROFS, create, foreign / "empty" / "new")
    refused(errno.EROFS, os.unlink, foreign / "full" / "inner")


@pytest.mark.parametrize("name", ["full", "empty"])
def test_a_directory_is_no_file(name: str, tree: Path) -> None:
    directory = tree / name
    refused(errno.EISDIR, os.unlink, directory)
    refused(errno.EISDIR, create, directory)
    refused(errno.EISDIR, os.open, directory, os.O_WRONLY)
    refused(errno.EISDIR, os.truncate, directory, 0)
    refused(errno.EISDIR, os.rename, tree / "file", directory)
    refused(errno.EISDIR, create, f"{directory}/new/")
    refused_on(errno.EISDIR, directory, os.O_RDONLY, os.read, 1)


def test_a_file_is_no_directory(tree: Path) -> None:
    file = tree / "file"
    refused(errno.ENOTDIR, os.rmdir, file)
    refused(errno.ENOTDIR, os.listdir, file)
    refused(errno.ENOTDIR, os.open, file, os.O_RDONLY | os.O_DIRECTORY)
    refused(errno.ENOTDIR, os.stat, f"{file}/")
    for call in (os.stat, os.mkdir, create):
        refused(errno.ENOTDIR, call, file / "below")
    refused(errno.ENOTDIR, os.rename, tree / "full", file)
    refused(errno.ENOTDIR, os.rename, tree / "full" / "inner", file / "below")
    refused(errno.ENOTDIR, os.rename, file, f"{tree}/new/")


def test_what_is_there_is_not_made(tree: Path) -> None:
    for name in ("file", "full", "empty"):
        refused(errno.EEXIST, os.mkdir, tree / name)
        refused(errno.EEXIST, make_file, tree / name)
        refused(errno.EEXIST, os.open, tree / name, os.O_CREAT | os.O_EXCL)


def test_rmdir(tree: Path) -> None:
    refused(errno.ENOTEMPTY, os.rmdir, tree / "full")
    refused(errno.ENOTEMPTY, os.rmdir, f"{tree}/empty/..")
    refused(errno.EINVAL, os.rmdir, f"{tree}/empty/.")
    refused(errno.ENOENT, os.rmdir, tree / "new")
    refused(errno.EBUSY, os.rmdir, tree.parent)


def test_rename(tree: Path) -> None:
    inner = tree / "full" / "inner"
    refused(errno.EINVAL, os.rename, tree / "full", tree / "full" / "below")
    refused(errno.ENOENT, os.rename, tree / "new", tree / "file")
    refused(errno.ENOENT, os.rename, tree / "file", tree / "new" / "below")
    refused(errno.EBUSY, os.rename, f"{tree}/full/.", tree / "new")
    refused(errno.EEXIST, renameat2, tree / "file", inner, RENAME_NOREPLACE)


def test_nothing_is_made_in_a_removed_directory(tree: Path) -> None:
    removed = tree / "removed"
    removed.mkdir()
    with opened(removed, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        removed.rmdir()
        for call in (create, os.mkdir, os.stat):
            refused(errno.ENOENT, call, "new", dir_fd=descriptor)
        refused(errno.ENOENT, os.rename, tree / "file", "new", dst_dir_fd=descriptor)
        assert os.listdir(descriptor) == []


@pytest.mark.parametrize("byte_count", [-1, 128 * MIB + 1, 1 << 62, (1 << 63) - 1])
def test_impossible_sizes(byte_count: int, pool_path: Path) -> None:
    """ftruncate(2) says so itself, not the close."""
    file, number = pool_path / "file", errno.EINVAL if byte_count < 0 else errno.EFBIG
    refused(number, os.truncate, file, byte_count)
    refused_on(number, file, os.O_RDWR, os.ftruncate, byte_count)


def test_impossible_offsets(pool_path: Path) -> None:
    file, max_offset = pool_path / "file", (1 << 63) - 1  # of off_t
    refused_on(errno.EFBIG, file, os.O_RDWR, os.pwrite, b"xx", 128 * MIB)
    refused_on(errno.EFBIG, file, os.O_RDWR, os.pwrite, b"xx", 1 << 62)
    refused_on(errno.EINVAL, file, os.O_RDWR, os.pwrite, b"xx", max_offset)
    refused_on(errno.EINVAL, file, os.O_RDWR, os.pwrite, b"xx", -1)
    refused_on(errno.EINVAL, file, os.O_RDWR, os.lseek, -1, os.SEEK_SET)
    refused_on(errno.EINVAL, file, os.O_RDWR, fallocate, 0, -1, 1)


def test_handles_of_the_other_kind(pool_path: Path) -> None:
    file = pool_path / "file"
    refused_on(errno.EBADF, file, os.O_RDONLY, os.write, b"x")
    refused_on(errno.EBADF, file, os.O_RDONLY, fallocate, 0, 0, 4096)
    refused_on(errno.EINVAL, file, os.O_RDONLY, os.ftruncate, 0)
    refused_on(errno.EBADF, file, os.O_WRONLY, os.read, 1)
    shared = (len(CONTENT), mmap.MAP_SHARED, mmap.PROT_WRITE)
    refused_on(errno.EACCES, file, os.O_RDONLY, mmap.mmap, *shared)
    with opened(file, os.O_RDONLY) as source:
        appending = os.O_WRONLY | os.O_APPEND
        for flags in (os.O_RDONLY, appending):
            refused_on(
                errno.EBADF, pool_path.parent / OTHER_POOL / "file", flags, copy_from, source
            )


def copy_from(descriptor: int, source: int) -> None:
    os.copy_file_range(source, descriptor, len(CONTENT))


# What the kernel and the C library do where a file system does not


def test_holes_are_data(pool_path: Path) -> None:
    """lseek(2) of a file system that tells of no holes: all is data, and the end is a hole."""
    file, size = pool_path / "file", len(CONTENT)
    with opened(file, os.O_RDONLY) as descriptor:
        assert os.lseek(descriptor, 3, os.SEEK_DATA) == 3
        assert os.lseek(descriptor, 3, os.SEEK_HOLE) == size
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        refused_on(errno.ENXIO, file, os.O_RDONLY, os.lseek, size, whence)


def test_copy_file_range(root: Path) -> None:
    """It copies, also from pool to pool."""
    for target in (root / POOL / "new", root / OTHER_POOL / "new"):
        with (
            opened(root / POOL / "file", os.O_RDONLY) as source,
            opened(target, os.O_WRONLY | os.O_CREAT) as descriptor,
        ):
            assert os.copy_file_range(source, descriptor, MIB, 3, 1) == len(CONTENT) - 3
        assert target.read_bytes() == b"\0" + CONTENT[3:]
        target.unlink()


def test_direct_io(pool_path: Path) -> None:
    """O_DIRECT works, and asks for no alignment."""
    new = pool_path / "new"
    with opened(new, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as descriptor:
        assert os.pwrite(descriptor, b"direct", 3) == 6
        assert os.pread(descriptor, 100, 1) == b"\0\0direct"
    assert new.read_bytes() == b"\0\0\0direct"
    new.unlink()


def test_posix_fallocate(pool_path: Path) -> None:
    """posix_fallocate(3) does with writes what fallocate(2) refuses."""
    new = pool_path / "new"
    new.write_bytes(CONTENT)
    with opened(new, os.O_RDWR) as descriptor:
        os.posix_fallocate(descriptor, 0, 10_000)
    assert new.read_bytes() == CONTENT.ljust(10_000, b"\0")
    new.unlink()


def test_shared_mappings_of_appends(pool_path: Path) -> None:
    """| mmap(2) with MAP_SHARED of a descriptor that has O_APPEND | ENODEV |"""
    (pool_path / "mapped").write_bytes(b"content")
    descriptor = os.open(pool_path / "mapped", os.O_RDWR | os.O_APPEND)
    try:
        refused(errno.ENODEV, mmap.mmap, descriptor, 7, mmap.MAP_SHARED)
        with mmap.mmap(descriptor, 7, mmap.MAP_PRIVATE) as private:
            assert private[:] == b"content"
    finally:
        os.close(descriptor)
    (pool_path / "mapped").unlink()
