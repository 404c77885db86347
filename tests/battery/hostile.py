"""Objects that no file system would make: names, xattrs, omaps and locator keys of any bytes.

librados itself puts them. Every one is listed once, and reached by what the listing says; the
mount neither ends nor grows, and its log says nothing.
"""

import contextlib
import errno
import os
import random
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from radosmount.store import posix
from radosmount.store.names import EMPTY_COMPONENT, TREE
from tests.battery.row import Arena, Row, RowFailed
from tests.mount.mounting import Mount
from tests.mount.raw_objects import RawPool, raw_pool

PIECES: Final = (
    *(b"%", b"%2F", b"%2E", b"%25", b"%00", b"%-", b"%@", b"%.", b"%~", b"25", b"/", b"//"),
    *(b".", b"..", b".snap", b".nspace", b".omap", b".radosmount", b"\xff\xfe", b"\n", b"a", b"b"),
    *(b"-rf", b" ", b"\x01", b"\x7f", b"caf\xc3\xa9", b"x" * 253, b"y" * 255, b"$(reboot)", b"'"),
)
NAME_BYTES_MAX: Final = 2048
DEPTH_MAX: Final = 200  # of `/` in one name; RADOS takes more, and so does Linux, step by step
XATTR_NAME_BYTES_MAX: Final = 100
KEPT_PIECES: Final = (
    *(b"mode=", b"100644", b"120777", b"40755", b"777777777777", b" uid=", b"-1", b"4294967295"),
    *(b"0", b" gid=", b" mtime=", b"1577934245.678912345", b"9999999999.999999999", b" target="),
    *(b"../../../../etc/passwd", b"/", b"x" * 4095, b"\0", b"\xff", b"\n", b" ", b""),
)
VIEWS: Final = ("names=tree", "names=flat", "names=tree,posix", "names=flat,posix")
GROWTH_MAX_KIB: Final = 6 * 1024  # of a walk that has been walked before
LARGE_BYTES: Final = 65537


@dataclass
class Hostile:
    """One object, as it was put."""

    name: bytes
    locator: bytes
    content: bytes
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    omap: dict[bytes, bytes] = field(default_factory=dict)

    def put(self, pool: RawPool) -> None:
        pool.put(self.name, self.content, self.locator or None)
        for key, value in self.xattrs.items():
            pool.set_xattr(self.name, key, value)
        if self.omap:
            pool.set_omap(self.name, self.omap)


# What is put


def make_name(rng: random.Random, known: list[bytes]) -> bytes:
    match rng.randrange(10):
        case 0:
            name = any_bytes(rng, rng.choice((1, 10, 254, 255, 256, 1000, NAME_BYTES_MAX)))
        case 1 if known:  # beside, below, or the marker of one that is there
            name = rng.choice(known) + rng.choice((b"/", b"/x", b"%.", b"%-", b"/%-", b"%~"))
        case 2:
            name = rng.choice(PIECES) * rng.randrange(1, 20)
        case _:
            name = b"".join(rng.choices(PIECES, k=rng.randrange(1, 7)))
    name = name[:NAME_BYTES_MAX]
    return name if name.count(b"/") <= DEPTH_MAX else b"deep"


def any_bytes(rng: random.Random, length: int) -> bytes:
    """Any but NUL, at which librados would end a name."""
    return bytes(rng.randrange(1, 256) for _ in range(length))


def make_items(rng: random.Random, count: int) -> list[Hostile]:
    made: dict[tuple[bytes, bytes], Hostile] = {}
    while len(made) < count:
        name = make_name(rng, [name for name, _ in list(made)[-50:]])
        locator = b"" if rng.random() < 0.85 else make_name(rng, [])[:200]
        key = (name, b"" if locator == name else locator)
        content = b"%d " % len(made) + rng.randbytes(rng.choice((0, 10, 5000)))
        item = Hostile(*key, content, make_xattrs(rng), make_omap(rng))
        if posix.XATTR in item.xattrs and rng.random() < 0.5:
            item.content = b""  # only an empty object may be a symbolic link
        made.setdefault(key, item)
    return list(made.values())


def make_xattrs(rng: random.Random) -> dict[bytes, bytes]:
    xattrs = {}
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        made = any_bytes(rng, rng.choice((1, 5, XATTR_NAME_BYTES_MAX)))
        name = rng.choice((made, b"user.x", b"lock."))
        xattrs[name] = rng.randbytes(rng.choice((0, 1, 100)))
    if rng.random() < 0.01:
        xattrs[b"large"] = bytes(LARGE_BYTES)
    if rng.random() < 0.3:
        xattrs[posix.XATTR] = b"".join(rng.choices(KEPT_PIECES, k=rng.randrange(1, 9)))
    if rng.random() < 0.1:
        xattrs[posix.XATTR] = b"mode=120777 target=" + rng.choice((b"x" * 4095, b"/etc", b"."))
    return xattrs


def make_omap(rng: random.Random) -> dict[bytes, bytes]:
    count = rng.choice((0,) * 8 + (1, 50))
    return {b"%d-" % n + b"\xff\n" * (n % 3): rng.randbytes(9) for n in range(count)}


# What is seen


@dataclass
class Seen:
    """What a walk has found: how often each object, by what it tells of itself."""

    contents: Counter[bytes] = field(default_factory=Counter)
    links: list[bytes] = field(default_factory=list)
    names: Counter[bytes] = field(default_factory=Counter)
    xattrs: dict[bytes, list[bytes]] = field(default_factory=dict)


def walk(root: Path) -> Seen:
    """Step by step, since a path may be longer than Linux takes at once."""
    seen = Seen()
    waiting = [os.open(root, os.O_RDONLY | os.O_DIRECTORY)]
    while waiting:
        directory = waiting.pop()
        try:
            listed = os.listdir(directory)
            if len(set(listed)) != len(listed):
                raise RowFailed(f"listed twice: {[n for n in listed if listed.count(n) > 1]}")
            for name in listed:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory))
                elif stat.S_ISLNK(found.st_mode):
                    target = os.fsencode(os.readlink(name, dir_fd=directory))
                    if len(target) != found.st_size:
                        raise RowFailed(f"a link of {found.st_size} bytes to {target!r}")
                    seen.links.append(target)
                else:
                    look_into(seen, directory, name, found)
        finally:
            os.close(directory)
    return seen


def look_into(seen: Seen, directory: int, name: str, found: os.stat_result) -> None:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        content = os.read(descriptor, found.st_size + 1)
        if len(content) != found.st_size:
            raise RowFailed(f"{name!r}: {len(content)} bytes of {found.st_size}")
        seen.contents[content] += 1
        seen.names[os.getxattr(descriptor, "ceph.object")] += 1
        with suppressed(errno.E2BIG):
            for attribute in os.listxattr(descriptor):
                with suppressed(errno.E2BIG):
                    value = os.getxattr(descriptor, attribute)
                    seen.xattrs.setdefault(content, []).append(
                        os.fsencode(attribute) + b"=" + value
                    )
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def suppressed(number: int) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno != number:
            raise


def verify(arena: Arena, items: list[Hostile], seen: Seen, view: str) -> None:
    """Markers show as directories: they, and links, are not among the files."""
    is_tree, has_posix = "names=tree" in view, "posix" in view
    files = [item for item in items if not (is_tree and is_marker(item))]
    links = [item for item in files if has_posix and target_of(item) is not None]
    files = [item for item in files if item not in links]
    require_equal(seen.names, Counter(item.name for item in files), f"names, {view}")
    require_equal(seen.contents, Counter(item.content for item in files), f"contents, {view}")
    targets = Counter(target_of(item) or b"" for item in links)
    require_equal(Counter(seen.links), targets, f"links, {view}")
    for item in files:
        if item.content:
            expected = sorted(
                b"user." + name + b"=" + value
                for name, value in item.xattrs.items()
                if len(value) < LARGE_BYTES
                and not name.startswith((b"lock.", b"striper.", posix.XATTR))
            )
            found = sorted(seen.xattrs.get(item.content, []))
            if found != expected:
                raise RowFailed(f"xattrs of {item.name!r}: {found[:5]} != {expected[:5]}")
    arena.figures.verified += len(files) + len(links)
    arena.figures.verified_bytes += sum(len(item.content) for item in files)


def is_marker(item: Hostile) -> bool:
    path = TREE.path_of(item.name, item.locator)
    return len(path) > 1 and path[-1] == EMPTY_COMPONENT


def target_of(item: Hostile) -> bytes | None:
    value = item.xattrs.get(posix.XATTR)
    return None if value is None or item.content else posix.decode(value).target


def require_equal(found: Counter[bytes], expected: Counter[bytes], what: str) -> None:
    if found != expected:
        missing = [(name[:80], count) for name, count in (expected - found).items()]
        surplus = [(name[:80], count) for name, count in (found - expected).items()]
        raise RowFailed(f"{what}: missing {missing[:5]}, surplus {surplus[:5]}")


def resident_kib(mount: Mount) -> int:
    assert mount.process is not None
    status = Path(f"/proc/{mount.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1])


def show_hostile_objects(arena: Arena) -> None:
    pool = f"{arena.folder.name}-hostile"
    arena.lab.create_pool(pool)
    try:
        items = make_items(arena.random, arena.sizes["objects"])
        with raw_pool(arena.lab.conf_path, pool) as objects:
            for item in items:
                item.put(objects)
                arena.figures.faults += 1
        growth_max_kib = 0
        for view in VIEWS:
            with arena.mounted(f"ceph:{pool}", view) as mount:
                verify(arena, items, walk(mount.path), view)
                if view != VIEWS[-1]:
                    continue
                before_kib = resident_kib(mount)
                verify(arena, items, walk(mount.path), view)
                growth_max_kib = max(growth_max_kib, resident_kib(mount) - before_kib)
        if growth_max_kib > GROWTH_MAX_KIB:
            raise RowFailed(f"grew by {growth_max_kib} KiB in a walk that it knew")
        arena.figures.more = {"views": len(VIEWS), "growth_max_kib": growth_max_kib}
    finally:
        arena.lab.delete_pool(pool)


ROWS: Final = (
    Row(
        "hostile",
        "names, xattrs, omaps and locator keys of any bytes",
        show_hostile_objects,
        {"objects": 500},
        {"objects": 5000},
        limit_s=(300, 3600),
    ),
)
