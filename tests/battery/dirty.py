"""Files that are open and dirty, of every kind, and what storing them would make of them."""

import contextlib
import errno
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from radosmount.cache.changes import Flight
from radosmount.config import KIB, MIB
from tests.battery.row import Objects
from tests.mount.calls import can

SIZES_BYTES: Final = (1, 700, 4 * KIB, 100 * KIB, MIB)
KINDS: Final = ("new", "rewritten", "overwritten", "longer", "shorter")
CHANGES: Final = ("none", "rewritten", "removed", "xattr")


@dataclass
class Dirty:
    """A file that is open for writing. `before`: what RADOS had when it was opened; None: nothing.
    `content`: what storing it would make of it."""

    path: Path
    kind: str
    descriptor: int
    before: bytes | None
    content: bytes = b""
    change: str = "none"  # what another client has done to it

    def make_dirty(self, dice: random.Random) -> None:
        data, old = some_bytes(dice), self.before or b""
        offset = {"overwritten": len(old) // 3, "longer": len(old) + len(data)}.get(self.kind, 0)
        kept = {"rewritten": b"", "shorter": old[: len(old) // 2]}.get(self.kind, old)
        if len(kept) < len(old):
            os.ftruncate(self.descriptor, len(kept))
        os.pwrite(self.descriptor, data, offset)
        self.content = kept[:offset].ljust(offset, b"\0") + data + kept[offset + len(data) :]

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)

    def abandon(self) -> None:
        """Where the row has failed."""
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):
                self.close()


def some_bytes(dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice(SIZES_BYTES))


def open_dirty(path: Path, kind: str, dice: random.Random) -> Dirty:
    """It is clean until `make_dirty`."""
    before = None if kind == "new" else some_bytes(dice)
    if before is not None:
        path.write_bytes(before)
    return Dirty(path, kind, os.open(path, os.O_RDWR | os.O_CREAT, 0o666), before)


def change_it(objects: Objects, file: Dirty, dice: random.Random) -> None:
    """As another client. A new file has nothing that could be removed, or have an xattr."""
    name = file.path.name
    if file.change == "rewritten":
        objects.ioctx.write_full(name, some_bytes(dice))
    elif file.change == "removed":
        objects.ioctx.remove_object(name)
    elif file.change == "xattr":
        objects.ioctx.set_xattr(name, "theirs", b"value")


def laid_over(before: bytes, flight: Flight) -> bytes:
    """What storing `flight` makes of that."""
    content = bytearray(before[: flight.changes.cut].ljust(flight.size, b"\0")[: flight.size])
    for offset, data in flight.changes.extents:
        content[offset : offset + len(data)] = data
    return bytes(content)


@dataclass
class Restless:
    """Rewrites a file in a pool and waits until it is stored, again and again, until that fails."""

    file: Dirty
    dice: random.Random
    acknowledged: int = 0

    def work(self) -> None:
        while True:
            self.file.content = self.dice.randbytes(len(self.file.content))
            os.pwrite(self.file.descriptor, self.file.content, 0)
            if not can(lambda: os.fsync(self.file.descriptor), errno.ENOENT):
                return
            self.file.before = self.file.content
            self.acknowledged += 1
