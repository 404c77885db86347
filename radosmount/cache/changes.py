"""What differs from what the store has, and what a flush stores of it: the layers of a file.

Pure data. `file` says what they mean together, `plan` which operations make one of them stored.
"""

from dataclasses import dataclass, field

from radosmount.cache.extents import ExtentMap
from radosmount.store.interface import ObjectStat
from radosmount.store.posix import Posix


@dataclass(slots=True)
class Changes:
    """What differs from the layer below. `mtime_s`, `posix` None: they do not."""

    extents: ExtentMap = field(default_factory=ExtentMap)
    cut: int | None = None
    mtime_s: int | None = None
    xattrs: dict[bytes, bytes | None] = field(default_factory=dict)  # None removes
    posix: Posix | None = None

    def split(self, offset: int) -> "Changes":
        """Keep all but the bytes from `offset` on, and return those."""
        return Changes(self.extents.split(offset), mtime_s=self.mtime_s)

    def absorb(self, newer: "Changes") -> None:
        """Put `newer` on top: afterwards this is both together."""
        if newer.cut is not None:
            self.extents.truncate(newer.cut)
            self.cut = newer.cut if self.cut is None else min(self.cut, newer.cut)
        self.extents.overlay(newer.extents)
        self.mtime_s = self.mtime_s if newer.mtime_s is None else newer.mtime_s
        self.xattrs.update(newer.xattrs)
        self.posix = self.posix if newer.posix is None else newer.posix


@dataclass(frozen=True, slots=True)
class PartlyStored(ObjectStat):
    """The object after a flush of which not all was stored: at least `size_min` long, and at most
    `size`. What is missing at its end is unstored, so it counts as `size`."""

    size_min: int


@dataclass(frozen=True, slots=True)
class Flight:
    """What one flush stores: frozen when it starts.

    `is_new`: the store has no such object. `size` is the file's at that moment. `is_append`:
    every extent was appended; what lies below `base.size` is stored already.
    """

    changes: Changes
    base: ObjectStat
    is_new: bool
    size: int
    is_append: bool

    @property
    def kept_size(self) -> int:
        """How much of the store's content still counts."""
        cut = self.changes.cut
        return self.base.size if cut is None else min(self.base.size, cut)

    @property
    def kept_size_min(self) -> int:
        """The same, where the store may have less than we count on."""
        if isinstance(self.base, PartlyStored):
            return min(self.kept_size, self.base.size_min)
        return self.kept_size

    @property
    def replaces_all(self) -> bool:
        return self.is_new or self.kept_size == 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """An operation whose reply was lost: how the object looks if it was applied.

    Its size is `size_min`, up to `size_max` where more operations followed. `pieces`: the bytes
    written, as (offset, length, digest).
    """

    size_min: int
    size_max: int
    mtime_s: int
    is_append: bool
    pieces: tuple[tuple[int, int, bytes], ...]
