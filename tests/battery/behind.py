"""Objects that are changed behind the mount, while it has them cached, open or dirty.

Every version of an object is made of one short text, again and again: whatever a read returns
tells which versions it is of.
"""

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rados

from radosmount.cache import spoolfile
from radosmount.config import MIB
from tests.battery.row import Arena, Row, RowFailed
from tests.mount.calls import eventually
from tests.mount.mounting import Mount
from tests.support.cluster import SHARED_POOL

STAMP_BYTES: Final = 16
SIZES: Final = (1, 15, 1000, 4096, 100_000, 700_000, 3 * MIB)
FSTAT_FRESHNESS_S: Final = 1.0  # what the documents promise of an open file
SLACK_S: Final = 1.0  # and what a busy machine takes more
SLEPT_ONE_OF: Final = 8
EXPECTED_LOG: Final = ("is not stored, its bytes are kept", "could not be stored, and are kept",
                       "flush: ", "fsync: ")  # fmt: skip


def content_of(version: int, size: int) -> bytes:
    stamp = b"%015d\n" % version
    return (stamp * (size // STAMP_BYTES + 1))[:size]


@dataclass
class Object:
    """One object, a mount's file, and what it was last made by others."""

    path: Path
    objects: rados.Ioctx
    random: random.Random
    version: int = 0
    content: bytes = b""

    @property
    def name(self) -> str:
        return self.path.name

    def replace(self, size: int | None = None) -> None:
        """As another client does, whole; its mtime is now."""
        self.version += 1
        size = self.random.choice(SIZES) if size is None else size
        self.content = content_of(self.version, size)
        self.objects.write_full(self.name, self.content)

    def change(self) -> None:
        """As another client does, in one of its ways."""
        how = self.random.choice(("replace", "replace", "same size", "append", "truncate"))
        match how:
            case "replace":
                self.replace()
            case "same size":
                self.replace(len(self.content))
            case "append":
                self.version += 1
                added = content_of(self.version, self.random.choice(SIZES[:5]))
                self.objects.append(self.name, added)
                self.content += added
            case "truncate":
                self.version += 1
                size = self.random.randrange(len(self.content) + 1)
                self.objects.trunc(self.name, size)  # type: ignore[attr-defined]
                self.content = self.content[:size]

    def read_by_name(self) -> bytes:
        return self.path.read_bytes()


class Rounds:
    def __init__(self, arena: Arena, mount: Mount, objects: rados.Ioctx) -> None:
        self.arena, self.mount, self.objects = arena, mount, objects
        self.random = arena.random
        self.staleness_max_s = 0.0
        self.spooled_count = 0

    def new(self, number: int) -> Object:
        made = Object(self.mount.path / f"o{number}", self.objects, self.random)
        made.replace()
        return made

    def require(self, is_so: bool, what: str) -> None:
        if not is_so:
            raise RowFailed(what)
        self.arena.figures.verified += 1

    def require_content(self, found: bytes, expected: bytes, what: str) -> None:
        """Bytes are told by their versions: there are too many to print."""
        if found != expected:
            versions = sorted({found[at : at + STAMP_BYTES] for at in range(0, len(found), 4096)})
            text = f"{what}: {len(found)} bytes for {len(expected)}, of versions {versions[:5]}"
            raise RowFailed(text)
        self.arena.figures.verified_bytes += len(found)

    def cached(self, number: int) -> None:
        """Read, and changed: what is asked by name tells of that at once."""
        item = self.new(number)
        for _ in range(self.random.randrange(1, 4)):
            self.require_content(item.read_by_name(), item.content, "read by name")
            item.change()
            self.arena.figures.faults += 1
            if self.random.random() < 0.5:
                self.require(os.stat(item.path).st_size == len(item.content), "size by name")
        self.require_content(item.read_by_name(), item.content, "read by name")
        item.objects.remove_object(item.name)
        self.require(not item.path.exists(), "is there, but was removed")

    def open_for_reading(self, number: int) -> None:
        """A descriptor has the old content or the new; after the promised second, once it was
        asked for by fstat or by an open, the new one only."""
        item = self.new(number)
        descriptor = os.open(item.path, os.O_RDONLY)
        try:
            for _ in range(self.random.randrange(1, 4)):
                if self.random.random() < 0.8:
                    os.pread(descriptor, self.random.choice(SIZES), 0)
                size_before = len(item.content)
                item.change()
                self.arena.figures.faults += 1
                changed_s = time.monotonic()
                if self.random.randrange(SLEPT_ONE_OF) == 0 and size_before != len(item.content):
                    self.hear_by_fstat(descriptor, item, changed_s)
                else:
                    self.require_content(item.read_by_name(), item.content, "read by name")
                found = os.pread(descriptor, len(item.content) + 1, 0)
                self.require_content(found, item.content, "read by the old descriptor")
                self.require(os.fstat(descriptor).st_size == len(item.content), "its size")
            self.remove_while_open(item, descriptor)
        finally:
            os.close(descriptor)

    def hear_by_fstat(self, descriptor: int, item: Object, changed_s: float) -> None:
        while os.fstat(descriptor).st_size != len(item.content):
            late_s = time.monotonic() - changed_s
            self.require(late_s < FSTAT_FRESHNESS_S + SLACK_S, f"fstat is {late_s:.1f} s old")
            time.sleep(0.02)
        self.staleness_max_s = max(self.staleness_max_s, time.monotonic() - changed_s)

    def remove_while_open(self, item: Object, descriptor: int) -> None:
        item.objects.remove_object(item.name)
        self.require(not item.path.exists(), "is there, but was removed")
        item.replace(self.random.choice(SIZES))
        self.require_content(item.read_by_name(), item.content, "what was made anew")

    def dirty(self, number: int) -> None:
        """What is written onto an object that is another by now is refused with ESTALE, and in
        the spool; the object has what the others made of it, and so has the file."""
        item = self.new(number)
        is_whole = self.random.random() < 0.3
        flags = os.O_RDWR | os.O_TRUNC * is_whole
        if self.random.random() < 0.5:
            item.read_by_name()
        descriptor = os.open(item.path, flags)
        pieces = self.write_some(descriptor, 0 if is_whole else len(item.content))
        self.interfere(item)
        self.arena.figures.faults += 1
        if self.random.random() < 0.3:
            self.require_stale(lambda: os.fsync(descriptor))
        spooled = set(self.spool_files())
        self.require_stale(lambda: os.close(descriptor))
        eventually(lambda: bool(set(self.spool_files()) - spooled))
        [path] = set(self.spool_files()) - spooled
        kept = spoolfile.decode(path.read_bytes())
        self.spooled_count += 1
        extents = [(at, bytes(data)) for at, data in kept.flight.changes.extents]
        self.require(kept.key.name == item.name.encode(), "the spool names another object")
        self.require(laid(extents) == laid(pieces), "the spool has not what was written")
        self.require((kept.flight.changes.cut == 0) == is_whole, "the spool's truncation")
        if item.version < 0:
            self.require(not item.path.exists(), "is there, but was removed")
        else:
            self.require_content(self.stored(item), item.content, "the object")
            self.require_content(item.read_by_name(), item.content, "the file after ESTALE")

    def heard(self, number: int) -> None:
        """What a stat or another open has told of since is not overwritten either:
        write(2) and ftruncate(2) by the old descriptor are ESTALE, and a new one may."""
        item = self.new(number)
        descriptor = os.open(item.path, os.O_RDWR)
        if self.random.random() < 0.5:
            os.pwrite(descriptor, item.content[:1], 0)
            os.fsync(descriptor)
        self.random.choice((item.change, lambda: item.objects.set_xattr(item.name, "k", b"v")))()
        self.arena.figures.faults += 1
        if self.random.random() < 0.5:
            os.stat(item.path)
        else:
            item.read_by_name()
        if self.random.random() < 0.5:
            self.require_stale(lambda: os.pwrite(descriptor, b"mine", 0))
        else:
            self.require_stale(lambda: os.ftruncate(descriptor, 1))
        os.close(descriptor)
        self.require_content(self.stored(item), item.content, "the object")
        self.require_content(item.read_by_name(), item.content, "the file")
        item.path.write_bytes(item.content[:10])
        self.require_content(self.stored(item), item.content[:10], "what was written by a new one")

    def write_some(self, descriptor: int, size: int) -> list[tuple[int, bytes]]:
        pieces = []
        for _ in range(self.random.randrange(1, 5)):
            at = self.random.randrange(size + 1)
            data = self.random.randbytes(self.random.choice(SIZES[:6]))
            os.pwrite(descriptor, data, at)
            pieces.append((at, data))
            size = max(size, at + len(data))
        return pieces

    def interfere(self, item: Object) -> None:
        match self.random.choice(("change", "change", "xattr", "remove", "made anew", "touched")):
            case "change":
                item.change()
            case "xattr":
                item.objects.set_xattr(item.name, "theirs", b"value")
            case "remove":
                item.objects.remove_object(item.name)
                item.version = -1
            case "made anew":
                item.objects.remove_object(item.name)
                item.replace()
            case "touched":  # the same bytes are another version
                item.objects.write_full(item.name, item.content)

    def require_stale(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as failure:
            self.require(failure.errno == errno.ESTALE, f"{failure} instead of ESTALE")
            return
        raise RowFailed("no ESTALE: someone was overwritten")

    def stored(self, item: Object) -> bytes:
        stored: bytes = item.objects.read(item.name, len(item.content) + 1)
        return stored

    def spool_files(self) -> list[Path]:
        directory = self.mount.folder / "spool"
        return list(directory.glob(f"*{spoolfile.SUFFIX}")) if directory.exists() else []


def laid(pieces: list[tuple[int, bytes]]) -> tuple[bytes, bytes]:
    """Pieces that were written one after the other: what is there, and where anything is."""
    end = max(at + len(data) for at, data in pieces)
    content, written = bytearray(end), bytearray(end)
    for at, data in pieces:
        content[at : at + len(data)] = data
        written[at : at + len(data)] = b"\1" * len(data)
    return bytes(content), bytes(written)


@contextlib.contextmanager
def other_client(arena: Arena) -> Iterator[rados.Ioctx]:
    """The row's own namespace, as another client has it. In the end there is nothing left in it:
    whoever lists one namespace waits for what all others have."""
    cluster = rados.Rados(name="client.admin", conffile=str(arena.lab.conf_path))
    cluster.connect(timeout=30)
    try:
        with contextlib.closing(cluster.open_ioctx(SHARED_POOL)) as objects:
            objects.set_namespace(arena.folder.name)
            yield objects
            for item in list(objects.list_objects()):
                objects.remove_object(item.key)
    finally:
        cluster.shutdown()


def change_behind(arena: Arena) -> None:
    source = f"ceph:{SHARED_POOL}/{arena.folder.name}"
    with other_client(arena) as objects, arena.mounted(source, "", EXPECTED_LOG) as mount:
        rounds = Rounds(arena, mount, objects)
        kinds = (rounds.cached, rounds.open_for_reading, rounds.dirty, rounds.heard)
        for number in range(arena.sizes["rounds"]):
            arena.random.choice(kinds)(number)
    arena.figures.more = {
        "fstat_staleness_max_s": round(rounds.staleness_max_s, 2),
        "spooled": rounds.spooled_count,
    }


ROWS: Final = (
    Row(
        "behind",
        "objects changed behind the mount: cached, open, dirty",
        change_behind,
        {"rounds": 100},
        {"rounds": 2000},
        limit_s=(300, 3600),
    ),
)
