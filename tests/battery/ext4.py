"""The same operations on a mount and on a directory of the local disk: whatever a program can
tell must be equal, but for the differences that docs/semantics.md lists.

Each difference is one of `Differences`: there the local disk is not asked, and the mount must
answer exactly what is documented.
"""

import contextlib
import errno
import functools
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import rados

from tests.battery.behind import other_client
from tests.battery.row import Arena, Row, RowFailed
from tests.support.cluster import SHARED_POOL

NAMES: Final = ("a", "b", "c", "d", "50%-off", "x\ny")
DEPTHS: Final = (1, 1, 1, 2, 2, 3)
OFFSETS: Final = (0, 0, 1, 100, 4095, 4096, 5000, 70_000, 300_000)
LENGTHS: Final = (0, 1, 3, 100, 4096, 5000, 70_000, 200_000)
MODES: Final = (0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o2750, 0o444)
OWNERS: Final = (-1, 0, 7, 1000)
TIMES_S: Final = range(1_000_000_000, 1_200_000_000)
NOW_BEGINS_S: Final = 1_500_000_000  # nothing is set to a time after this
CLOCKS_DIFFER_S: Final = 2  # between the two sides of one step
REMOUNTED_ONE_OF: Final = 10
EXPECTED_LOG: Final = ("chmod and chown have no effect",)

Operation = tuple[str, tuple[object, ...]]
Outcome = tuple[object, ...]


@dataclass
class Side:
    """One of the two trees, and what a program has open in it."""

    root: Path
    descriptors: list[int] = field(default_factory=list)

    def at(self, path: str) -> Path:
        return self.root / path

    def descriptor(self, slot: int) -> int | None:
        return self.descriptors[slot % len(self.descriptors)] if self.descriptors else None

    def perform(self, operation: Operation) -> Outcome:
        """What a program hears: a value, or the errno."""
        name, arguments = operation
        try:
            return "ok", getattr(self, f"do_{name}")(*arguments)
        except OSError as failure:
            return "error", errno.errorcode[failure.errno or 0]

    def close_all(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())

    # Names

    def do_open(self, path: str, flags: int, mode: int) -> None:
        self.descriptors.append(os.open(self.at(path), flags, mode))

    def do_mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def do_mknod(self, path: str, mode: int) -> None:
        os.mknod(self.at(path), stat.S_IFREG | mode)

    def do_rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def do_unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def do_rename(self, old: str, new: str) -> None:
        os.rename(self.at(old), self.at(new))

    def do_link(self, old: str, new: str) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def do_symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.at(path))

    def do_readlink(self, path: str) -> str:
        return os.readlink(self.at(path))

    def do_listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self.at(path)))

    def do_scan(self, path: str) -> list[tuple[str, bool, bool]]:
        with os.scandir(self.at(path)) as entries:
            return sorted(
                (entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink())
                for entry in entries
            )

    # Attributes

    def do_stat(self, path: str) -> os.stat_result:
        return os.lstat(self.at(path))

    def do_stat_target(self, path: str) -> os.stat_result:
        return os.stat(self.at(path))

    def do_fstat(self, slot: int) -> os.stat_result | None:
        descriptor = self.descriptor(slot)
        return None if descriptor is None else os.fstat(descriptor)

    def do_truncate(self, path: str, size: int) -> None:
        os.truncate(self.at(path), size)

    def do_ftruncate(self, slot: int, size: int) -> None:
        descriptor = self.descriptor(slot)
        if descriptor is not None:
            os.ftruncate(descriptor, size)

    def do_utime(self, path: str, mtime_ns: int) -> None:
        os.utime(self.at(path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def do_futime(self, slot: int, mtime_ns: int) -> None:
        descriptor = self.descriptor(slot)
        if descriptor is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))

    def do_chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def do_fchmod(self, slot: int, mode: int) -> None:
        descriptor = self.descriptor(slot)
        if descriptor is not None:
            os.fchmod(descriptor, mode)

    def do_chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self.at(path), uid, gid)

    def do_setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(self.at(path), name, value, flags)

    def do_fsetxattr(self, slot: int, name: str, value: bytes) -> None:
        descriptor = self.descriptor(slot)
        if descriptor is not None:
            os.setxattr(descriptor, name, value)

    def do_getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self.at(path), name)

    def do_listxattr(self, path: str) -> list[str]:
        return sorted(os.listxattr(self.at(path)))

    def do_removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.at(path), name)

    # Content

    def do_read(self, slot: int, length: int) -> bytes | None:
        descriptor = self.descriptor(slot)
        return None if descriptor is None else os.read(descriptor, length)

    def do_pread(self, slot: int, length: int, offset: int) -> bytes | None:
        descriptor = self.descriptor(slot)
        return None if descriptor is None else os.pread(descriptor, length, offset)

    def do_write(self, slot: int, content: bytes) -> int | None:
        descriptor = self.descriptor(slot)
        return None if descriptor is None else os.write(descriptor, content)

    def do_pwrite(self, slot: int, content: bytes, offset: int) -> int | None:
        descriptor = self.descriptor(slot)
        return None if descriptor is None else os.pwrite(descriptor, content, offset)

    def do_seek(self, slot: int, offset: int, whence: int) -> int | None:
        """In a directory, what a position means is each file system's own."""
        descriptor = self.descriptor(slot)
        if descriptor is None or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return None
        return os.lseek(descriptor, offset, whence)

    def do_fsync(self, slot: int) -> None:
        descriptor = self.descriptor(slot)
        if descriptor is not None and self.must_sync:
            os.fsync(descriptor)

    def do_dup(self, slot: int) -> None:
        descriptor = self.descriptor(slot)
        if descriptor is not None:
            self.descriptors.append(os.dup(descriptor))

    def do_close(self, slot: int) -> None:
        descriptor = self.descriptor(slot)
        if descriptor is not None:
            self.descriptors.remove(descriptor)
            os.close(descriptor)

    def do_whole(self, path: str) -> bytes:
        return self.at(path).read_bytes()

    must_sync = True


class LocalSide(Side):
    """The disk itself is not what is tested: it need not sync."""

    must_sync = False


def paths(rng: random.Random) -> str:
    names = NAMES[:4] if rng.random() < 0.8 else NAMES
    return "/".join(rng.choices(names, k=rng.choice(DEPTHS)))


def some_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice(LENGTHS))


def flags_for_open(rng: random.Random) -> int:
    flags = rng.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
    flags |= os.O_CREAT * (rng.random() < 0.7)
    flags |= os.O_EXCL * (rng.random() < 0.15 and bool(flags & os.O_CREAT))
    flags |= os.O_TRUNC * (rng.random() < 0.2)
    flags |= os.O_APPEND * (rng.random() < 0.25)
    flags |= os.O_NOFOLLOW * (rng.random() < 0.1)
    flags |= os.O_DIRECTORY * (rng.random() < 0.05 and not flags & os.O_CREAT)
    return flags | os.O_SYNC * (rng.random() < 0.05)


def mtime_ns(rng: random.Random) -> int:
    return rng.choice(TIMES_S) * 10**9 + rng.randrange(10**9)


def xattr(rng: random.Random) -> str:
    return rng.choice(("user.k", "user.l", "user.caf\xe9"))


def slot(rng: random.Random) -> int:
    return rng.randrange(1000)


def target(rng: random.Random) -> str:
    return rng.choice(("a", "b", "../a", "d/a", ".", "nowhere/at/all", "x" * 200))


Maker = Callable[[random.Random], tuple[object, ...]]
MAKERS: Final[dict[str, tuple[int, Maker]]] = {  # how often, and with what
    "open": (20, lambda r: (paths(r), flags_for_open(r), r.choice(MODES))),
    "mkdir": (6, lambda r: (paths(r), r.choice(MODES) & 0o3777)),
    "mknod": (1, lambda r: (paths(r), r.choice(MODES))),
    "rmdir": (3, lambda r: (paths(r),)),
    "unlink": (6, lambda r: (paths(r),)),
    "rename": (8, lambda r: (paths(r), paths(r))),
    "link": (1, lambda r: (paths(r), paths(r))),
    "symlink": (3, lambda r: (target(r), paths(r))),
    "readlink": (1, lambda r: (paths(r),)),
    "listdir": (3, lambda r: (r.choice(("", paths(r))),)),
    "scan": (2, lambda r: (r.choice(("", paths(r))),)),
    "stat": (8, lambda r: (paths(r),)),
    "stat_target": (3, lambda r: (paths(r),)),
    "fstat": (6, lambda r: (slot(r),)),
    "truncate": (3, lambda r: (paths(r), r.choice(OFFSETS))),
    "ftruncate": (4, lambda r: (slot(r), r.choice(OFFSETS))),
    "utime": (4, lambda r: (paths(r), mtime_ns(r))),
    "futime": (3, lambda r: (slot(r), mtime_ns(r))),
    "chmod": (3, lambda r: (paths(r), r.choice(MODES))),
    "fchmod": (2, lambda r: (slot(r), r.choice(MODES))),
    "chown": (2, lambda r: (paths(r), r.choice(OWNERS), r.choice(OWNERS))),
    "setxattr": (
        4,
        lambda r: (
            paths(r),
            xattr(r),
            r.randbytes(r.randrange(50)),
            r.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE)),
        ),
    ),
    "fsetxattr": (2, lambda r: (slot(r), xattr(r), r.randbytes(r.randrange(50)))),
    "getxattr": (3, lambda r: (paths(r), xattr(r))),
    "listxattr": (2, lambda r: (paths(r),)),
    "removexattr": (2, lambda r: (paths(r), xattr(r))),
    "read": (10, lambda r: (slot(r), r.choice(LENGTHS))),
    "pread": (8, lambda r: (slot(r), r.choice(LENGTHS), r.choice(OFFSETS))),
    "write": (14, lambda r: (slot(r), some_bytes(r))),
    "pwrite": (10, lambda r: (slot(r), some_bytes(r), r.choice(OFFSETS))),
    "seek": (3, lambda r: (slot(r), r.choice(OFFSETS), r.choice((os.SEEK_SET, os.SEEK_END)))),
    "fsync": (3, lambda r: (slot(r),)),
    "dup": (2, lambda r: (slot(r),)),
    "close": (9, lambda r: (slot(r),)),
    "whole": (4, lambda r: (paths(r),)),
}
REMOUNT: Final[Operation] = ("remount", ())


def make_operations(seed: int, count: int) -> list[Operation]:
    rng = random.Random(seed)
    weights = [weight for weight, _ in MAKERS.values()]
    chosen = rng.choices(list(MAKERS), weights, k=count)
    operations: list[Operation] = [(name, MAKERS[name][1](rng)) for name in chosen]
    if rng.randrange(REMOUNTED_ONE_OF) == 0:
        operations.insert(rng.randrange(count), REMOUNT)
    return operations


@dataclass
class Differences:
    """What the mount answers otherwise, as docs/semantics.md says."""

    has_posix: bool
    has_remounted: bool = False

    def expected(self, operation: Operation, local: Side) -> tuple[str, ...] | None:
        """The errnos of which the mount must answer one, where the disk would not; else None."""
        match operation:
            case ("rename", (str(old), str(new))) if is_directory(local, old):
                # The kernel itself finds these out before the mount is asked.
                by_kernel = ("ENOTDIR", "EINVAL", "ENOTEMPTY", "ENOENT", "ELOOP")
                return None if same_path(local, old, new) else ("EXDEV", *by_kernel)
            case ("link", (str(old), str(new))) if local.perform(("stat", (old,)))[0] == "ok":
                return ("EPERM", "EEXIST", "ENOENT", "ENOTDIR", "ELOOP")
            case ("symlink", (str(_), str(path))) if not self.has_posix:
                is_free = local.perform(("stat", (path,))) == ("error", "ENOENT")
                is_free = is_free and is_directory(local, os.path.dirname(path))
                return ("EPERM",) if is_free else ("EEXIST", "ENOENT", "ENOTDIR", "ELOOP")
            case ("setxattr", (str(path), *_)) if is_directory(local, path, follows=True):
                return ("ENOTSUP", "ENODATA")  # XATTR_REPLACE looks for it first
            case ("removexattr", (str(path), _)) if is_directory(local, path, follows=True):
                return ("ENOTSUP",)
            case ("fsetxattr", (int(number), *_)):
                descriptor = local.descriptor(number)
                if descriptor is None:
                    return None
                found = os.fstat(descriptor)
                if stat.S_ISDIR(found.st_mode):
                    return ("ENOTSUP",)
                return ("ESTALE",) if found.st_nlink == 0 else None
        return None

    def shown(self, outcome: Outcome) -> Outcome:
        """What of an outcome has to be equal."""
        match outcome:
            case ("ok", os.stat_result() as found):
                return ("ok", *self._attributes(found))
        return outcome

    def _attributes(self, found: os.stat_result) -> tuple[object, ...]:
        """An object has no other times than its mtime, no blocks, and a directory no size."""
        kind, is_directory = stat.S_IFMT(found.st_mode), stat.S_ISDIR(found.st_mode)
        permissions: tuple[int, ...] = ()
        if self.has_posix:
            permissions = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
        return (kind, found.st_nlink, 0 if is_directory else found.st_size, *permissions)

    def same_time(self, mine: os.stat_result, theirs: os.stat_result) -> bool:
        """A time that was set is kept, in whole seconds without `posix`; "now" is about now."""
        if stat.S_ISDIR(mine.st_mode) and self.has_remounted:
            return True  # without a marker's, the mount's start, or its last change
        if theirs.st_mtime < NOW_BEGINS_S:
            return (
                mine.st_mtime_ns == theirs.st_mtime_ns
                if self.has_posix
                else mine.st_mtime_ns == theirs.st_mtime_ns // 10**9 * 10**9
            )
        return abs(mine.st_mtime - theirs.st_mtime) <= CLOCKS_DIFFER_S


def is_removed_directory(local: Outcome) -> bool:
    """Of one that is still open."""
    found = local[1]
    if not isinstance(found, os.stat_result):
        return False
    return stat.S_ISDIR(found.st_mode) and not found.st_nlink


def is_directory(side: Side, path: str, follows: bool = False) -> bool:
    try:
        found = os.stat(side.at(path), follow_symlinks=follows)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode)


def same_path(side: Side, one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(side.at(one)), os.lstat(side.at(other)))
    except OSError:
        return False


@dataclass
class Comparison:
    """One sequence on both sides. `trace`: what was done, for whoever reads of a failure."""

    mine: Side
    local: Side
    differences: Differences
    trace: list[str] = field(default_factory=list)
    verified: int = 0
    verified_bytes: int = 0

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Both have an empty directory; in the end, where all was well, none."""
        sides = self.mine, self.local
        for side in sides:
            side.root.mkdir(parents=True)
        try:
            yield
        finally:
            for side in sides:
                side.close_all()
        for side in sides:
            shutil.rmtree(side.root.parent)

    def step(self, operation: Operation) -> None:
        expected = self.differences.expected(operation, self.local)
        mine = self.mine.perform(operation)
        self.trace.append(f"{shortened(operation)} -> {shortened(mine)}")
        if expected is not None:
            self.require(mine[0] == "error" and mine[1] in expected, f"expected: {expected}")
            return
        self.compare(mine, self.local.perform(operation))

    def compare(self, mine: Outcome, local: Outcome) -> None:
        if is_removed_directory(local):
            return  # its marker is gone, and with it what it had
        shown = self.differences.shown(mine), self.differences.shown(local)
        self.require(shown[0] == shown[1], f"{shortened(shown[0])} != {shortened(shown[1])}")
        match mine, local:
            case ("ok", os.stat_result() as found), ("ok", os.stat_result() as theirs):
                times = f"mtime {found.st_mtime_ns} != {theirs.st_mtime_ns}"
                self.require(self.differences.same_time(found, theirs), times)
            case ("ok", bytes(content)), _:
                self.verified_bytes += len(content)
        self.verified += 1

    def compare_trees(self) -> None:
        for path in sorted(walk(self.local.root.parent, self.local.root)):
            for name in ("stat", "scan", "whole", "listxattr"):
                is_below = is_directory(self.local, path)
                if name == "stat" or (name == "scan") == is_below:
                    self.step((name, (path,)))
                if name == "listxattr" and not is_below:
                    for key in self.local.perform((name, (path,)))[1:]:
                        for attribute in key if isinstance(key, list) else ():
                            self.step(("getxattr", (path, attribute)))

    def require(self, is_so: bool, what: str) -> None:
        if not is_so:
            done = "\n".join(self.trace)
            raise RowFailed(f"{what}\nposix: {self.differences.has_posix}; all steps:\n{done}")


def walk(root: Path, start: Path) -> Iterator[str]:
    """All paths below `root`, as seen from `start`."""
    yield os.path.relpath(root, start)
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            yield os.path.relpath(os.path.join(directory, name), start)


def shortened(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 20:
        return f"<{len(value)} bytes {value[:8].hex()}>"
    if isinstance(value, tuple):
        return f"({', '.join(map(shortened, value))})"
    return repr(value)


def compare_with_disk(has_posix: bool, arena: Arena) -> None:
    """Every sequence has a directory of its own; its seed alone repeats it."""
    options = "posix" if has_posix else ""
    local_root = Path(tempfile.mkdtemp(dir=arena.folder))
    has_xattrs = takes_xattrs(local_root)
    mount = arena.make_mount()

    def start() -> None:
        mount.start(arena.lab, f"ceph:{SHARED_POOL}/{arena.folder.name}", options)

    start()
    remount_count = 0
    with other_client(arena) as objects:
        for number in range(arena.sizes["sequences"]):
            seed = arena.random.getrandbits(32)
            operations = make_operations(seed, arena.sizes["steps"])
            if not has_xattrs:
                operations = [each for each in operations if "xattr" not in each[0]]
            base = f"s{number}/base"  # `..` of it is the sequence's own, too
            comparison = Comparison(
                Side(mount.path / base), LocalSide(local_root / base), Differences(has_posix)
            )
            comparison.trace.append(f"make_operations({seed}, {arena.sizes['steps']})")
            with comparison.prepared():
                for operation in operations:
                    if operation == REMOUNT:
                        remount(comparison, start, mount.stop)
                        remount_count += 1
                    else:
                        comparison.step(operation)
                close_both(comparison)
                comparison.compare_trees()
                comparison.verified_bytes += verify_objects(comparison, objects, base)
            arena.figures.verified += comparison.verified
            arena.figures.verified_bytes += comparison.verified_bytes
    mount.stop()
    mount.check_log(() if has_posix else EXPECTED_LOG)
    arena.figures.more = {"remounts": remount_count, "has_xattrs": int(has_xattrs)}


def takes_xattrs(directory: Path) -> bool:
    """Not every tmpfs does."""
    try:
        os.setxattr(directory, "user.probe", b"")
    except OSError:
        return False
    return True


def close_both(comparison: Comparison) -> None:
    while comparison.mine.descriptors:
        comparison.step(("close", (0,)))


def remount(comparison: Comparison, start: Callable[[], None], stop: Callable[[], int]) -> None:
    close_both(comparison)
    comparison.require(stop() == 0, "the mount did not end well")
    start()
    comparison.trace.append("remounted")
    comparison.differences.has_remounted = True
    comparison.compare_trees()


def verify_objects(comparison: Comparison, objects: rados.Ioctx, prefix: str) -> int:
    """Past the mount, the objects have what the local files have."""
    byte_count = 0
    for path in walk(comparison.local.root.parent, comparison.local.root):
        local = comparison.local.at(path)
        if local.is_file() and not local.is_symlink():
            content = local.read_bytes()
            name = os.path.normpath(f"{prefix}/{path}")
            stored = objects.read(name, len(content) + 1)
            comparison.require(stored == content, f"the object of {path!r} is another")
            byte_count += len(content)
    return byte_count


SHORT: Final = {"sequences": 50, "steps": 50}
LONG: Final = {"sequences": 2000, "steps": 100}
ROWS: Final = tuple(
    Row(
        f"ext4{suffix}",
        f"the same operations on a local disk, {options}",
        functools.partial(compare_with_disk, has_posix),
        SHORT,
        LONG,
        limit_s=(300, 7200),
        faults_needed=False,
    )
    for suffix, options, has_posix in (
        ("", "by default", False),
        ("-posix", "with posix", True),
    )
)
