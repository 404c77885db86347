"""Inodes: what the kernel may speak of by number, and how long each must be remembered.

Owner of the lookup counts. No I/O, no awaits. An inode number is made from what the inode
stands for, so that it stays the same over remounts; two that collide move apart, so one that
the kernel knows is never another's.

Invariant: `by_identity[node.identity] is node` for every node that has a name; a file whose
object is unlinked has none, and lives on by its number only.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from radosmount.cache.file import CachedFile
from radosmount.cache.orphan import Orphan
from radosmount.errors import StoreError
from radosmount.store.interface import ObjectKey, ObjectStat

if TYPE_CHECKING:
    from radosmount.vfs.statahead import StatAhead

ROOT_INO: Final = 1  # fuse(4): FUSE_ROOT_ID
INO_BYTES: Final = 8
INO_MAX: Final = (1 << 63) - 1

# Of a file its key, since it is looked up in every call; of others begun by what they are.
Identity = tuple[object, ...]


class Node:
    """Anything with an inode number. Slots, here and below: a large directory has many."""

    __slots__ = ("ino", "lookup_count")

    def __init__(self) -> None:
        self.ino = 0
        self.lookup_count = 0

    @property
    def identity(self) -> Identity:
        raise NotImplementedError

    @property
    def is_in_use(self) -> bool:
        return self.lookup_count > 0


class ObjectPlace(NamedTuple):
    """Where a directory's objects live (a tuple, since it is hashed on every call)."""

    pool_id: int
    namespace: bytes

    def holds(self, key: ObjectKey) -> bool:
        return key.pool_id == self.pool_id and key.namespace == self.namespace


class RootNode(Node):
    """The directory of all pools."""

    __slots__ = ()

    @property
    def identity(self) -> Identity:
        return ("root",)


class DirectoryNode(Node):
    """A pool or namespace, or (`path` not empty) a directory within it."""

    __slots__ = ("changed_ns", "heard_s", "is_removed", "marker", "path", "place")

    def __init__(self, place: ObjectPlace, path: tuple[bytes, ...] = ()) -> None:
        super().__init__()
        self.place = place
        self.path = path
        self.marker: ObjectStat | None = None  # where it has one
        self.heard_s = float("-inf")  # when the store last said so (trio's clock)
        self.changed_ns = 0  # when this mount last made or removed a name in it
        self.is_removed = False  # by this mount: one of that name is another from then on

    @property
    def identity(self) -> Identity:
        return ("directory", self.place, self.path)


@dataclass(frozen=True, slots=True)
class Vouch:
    """What an inode shows was right when the thread `caller` looked it up, at `looked_up_s`.

    `may_open`: and was asked for then, so that an open by the same thread need not ask again.
    """

    caller: int
    may_open: bool
    looked_up_s: float


class OwnChange(NamedTuple):
    """The last change by this mount that is stored, and when its thread was told: `OwnChanges`."""

    caller: int
    told_ns: int


@dataclass(frozen=True, slots=True)
class LostRemoval:
    """An unlinking whose reply was lost. `orphan`: what handles go on with, should it be applied;
    it counts as long as the file has the base of then, whose version was `base_version`."""

    orphan: Orphan | None
    base_version: int


class FileNode(Node):
    """An object. `open_count`: handles, whatever they are open for."""

    __slots__ = (
        "__weakref__",
        "as_listed",
        "dropped_count",
        "fetched_ahead_s",
        "file",
        "is_gone",
        "lost_removal",
        "open_count",
        "own_change",
        "replaced",
        "shown_version",
        "stale_count",
        "stat_ahead",
        "stat_ahead_index",
        "stat_under_way",
        "vouch",
    )

    def __init__(self, file: CachedFile) -> None:
        super().__init__()
        self.file = file
        self.open_count = 0
        self.replaced: trio.Event | None = None  # set when a rename over its name has ended
        self.shown_version: int | None = None  # of the attributes that the kernel may keep
        self.stale_count = 0  # how often the kernel's pages became those of another version
        self.dropped_count = 0  # up to which of them it is known to have dropped them
        self.lost_removal: LostRemoval | None = None
        self.vouch: Vouch | None = None
        self.own_change: OwnChange | None = None
        self.is_gone = False  # as was heard last
        self.as_listed = False  # was looked up last as it was listed: nobody was asked
        self.stat_ahead: StatAhead | None = None  # of the last listing that had it
        self.stat_ahead_index = 0
        self.stat_under_way: trio.Event | None = None  # ahead of the kernel's asking
        self.fetched_ahead_s = float("-inf")  # when such a stat came, until it is used

    @property
    def identity(self) -> Identity:
        return self.file.key

    def lose_removal(self, orphan: Orphan | None) -> None:
        """An unlinking may have been applied, or may yet be; see `LostRemoval`. What was kept of
        the same version before stays: by now there may have been no object to copy."""
        lost, version = self.lost_removal, self.file.base.version
        if lost is not None and lost.orphan is not None and lost.base_version == version:
            if orphan is not None:
                orphan.close()
            return
        self.close_orphans()
        self.lost_removal = LostRemoval(orphan, version)

    def note_gone(self) -> None:
        """There was no object. Who is told so (ESTALE) has the name looked up again, and no more of
        what was heard before answers that."""
        self.is_gone = True
        self.stat_ahead = None
        self.fetched_ahead_s = float("-inf")
        self.own_change = None

    def close_orphans(self) -> None:
        """Nobody needs the content any more that only this host has."""
        file, lost = self.file, self.lost_removal
        if file.orphan is not None:
            file.orphan.close()
            file.orphan = None
        if lost is not None and lost.orphan is not None:
            lost.orphan.close()
            self.lost_removal = replace(lost, orphan=None)

    @contextlib.contextmanager
    def replacing(self) -> Iterator[None]:
        """Meanwhile what the store says of its name may be of what replaces it: reads wait. (Opens
        wait by name: see `Retries.leaving`.)"""
        self.replaced = trio.Event()
        try:
            yield
        finally:
            self.replaced.set()
            self.replaced = None

    @property
    def is_settled(self) -> bool:
        """Nothing is unstored or under way, nor in doubt."""
        file = self.file
        is_known = file.is_clean and not file.is_suspect and not file.is_unlinked
        return is_known and self.lost_removal is None and self.replaced is None

    @property
    def is_only_read(self) -> bool:
        return self.file.is_clean and not self.file.writer_count

    @property
    def is_in_use(self) -> bool:
        has_unheard_error = self.file.error_count > self.file.reported_error_count
        is_needed = self.open_count > 0 or not self.file.is_clean or has_unheard_error
        return is_needed or super().is_in_use


class NodeTable:
    """All inodes that are in use."""

    def __init__(self) -> None:
        self._by_ino: dict[int, Node] = {}
        self._by_identity: dict[Identity, Node] = {}
        self._expected: dict[int, Identity] = {}  # numbers that are told already
        self._watch: Callable[[ObjectKey, bool | None], None] = lambda key, is_there: None

    def watch(self, watch: Callable[[ObjectKey, bool | None], None]) -> None:
        """Have `watch(key, is_there)` called when a file gets or loses a name; with None where an
        operation has failed that may have made or removed it, or may yet."""
        self._watch = watch

    def note(self, key: ObjectKey, is_there: bool) -> None:
        """An object that has no inode is made, or gone."""
        self._watch(key, is_there)

    def note_failure(self, failure: StoreError, *keys: ObjectKey) -> None:
        """Of what makes or removes these objects: who watches hears where the outcome is
        unknown."""
        if failure.is_outcome_unknown:
            for key in keys:
                self._watch(key, None)

    def set_root(self, root: Node) -> None:
        """Once, before any other node."""
        root.lookup_count = 1  # never forgotten
        self._enter(root, ROOT_INO, root.identity)

    def __len__(self) -> int:
        return len(self._by_ino)

    def __getitem__(self, ino: int) -> Node:
        """Raises: KeyError where the kernel was never told of `ino`: a bug."""
        return self._by_ino[ino]

    def find(self, identity: Identity) -> Node | None:
        return self._by_identity.get(identity)

    def number(self, identity: Identity) -> int:
        """The number of the inode of that identity, which it would get if there is none."""
        node = self._by_identity.get(identity)
        return _hashed_ino(identity) if node is None else node.ino

    def file_number(self, key: ObjectKey) -> int:
        """That of an object. Asked for each name of a listing: so without a call within."""
        node = self._by_identity.get(key)
        if node is not None:
            return node.ino
        digest = blake2b(b"%d\0%b\0%b\0%b" % key, digest_size=INO_BYTES).digest()
        return int.from_bytes(digest) & INO_MAX

    def find_file(self, key: ObjectKey) -> FileNode | None:
        node = self._by_identity.get(key)
        assert node is None or isinstance(node, FileNode)
        return node

    def expect(self, key: ObjectKey) -> int | None:
        """The number that a file of that name gets, if it is made before `expect_no_more`; None
        where another has that number, or the name."""
        if key in self._by_identity:
            return None
        ino = self.file_number(key)
        if ino <= ROOT_INO or ino in self._by_ino or ino in self._expected:
            return None
        self._expected[ino] = key
        return ino

    def expect_no_more(self, ino: int | None) -> None:
        if ino is not None:
            del self._expected[ino]

    def add(self, node: Node, is_listed: bool = False) -> None:
        """Give a new node its number, that which it has already if it may. Its identity must be
        free. `is_listed`: nothing was heard of it but by a listing, and it may be gone since."""
        identity = node.identity
        ino = node.ino or _hashed_ino(identity)
        while (
            ino in self._by_ino or ino <= ROOT_INO or self._expected.get(ino, identity) != identity
        ):
            ino = (ino + 1) & INO_MAX
        self._enter(node, ino, identity)
        if isinstance(node, FileNode) and not is_listed:
            self._watch(node.file.key, True)

    def forget(self, ino: int, lookup_count: int) -> None:
        """The kernel drops `lookup_count` of its references."""
        node = self._by_ino.get(ino)
        if node is not None:
            node.lookup_count = max(node.lookup_count - lookup_count, 0)
            self.drop_if_unused(node)

    def drop_if_unused(self, node: Node) -> None:
        if not node.is_in_use and self._by_ino.get(node.ino) is node:
            del self._by_ino[node.ino]
            self._unname(node)

    def unlink(self, node: FileNode | DirectoryNode) -> None:
        """Its name is free for another; its number stays while it is in use."""
        if isinstance(node, FileNode) and self._by_identity.get(node.identity) is node:
            self._watch(node.file.key, False)
        self._unname(node)
        self.drop_if_unused(node)

    def rename(self, node: FileNode, key: ObjectKey) -> None:
        """Move a file to a name that is free. Its number stays."""
        self._unname(node)
        self._watch(node.file.key, False)
        node.file.key = key
        self._watch(key, True)
        if self._by_ino.get(node.ino) is node:  # else forgotten meanwhile
            self._by_identity[node.identity] = node

    def files(self) -> list[FileNode]:
        return [node for node in self._by_ino.values() if isinstance(node, FileNode)]

    def unlisted(self, place: ObjectPlace) -> list[ObjectKey]:
        """Files that the store does not list yet."""
        return [
            node.file.key
            for node in self.files()
            if node.file.is_new and not node.file.is_unlinked and place.holds(node.file.key)
        ]

    def _enter(self, node: Node, ino: int, identity: Identity) -> None:
        assert identity not in self._by_identity
        node.ino = ino
        self._by_ino[ino] = node
        self._by_identity[identity] = node

    def _unname(self, node: Node) -> None:
        identity = node.identity
        if self._by_identity.get(identity) is node:
            del self._by_identity[identity]


def _hashed_ino(identity: Identity) -> int:
    digest = blake2b(_identity_bytes(identity), digest_size=INO_BYTES).digest()
    return int.from_bytes(digest) & INO_MAX


def _identity_bytes(identity: Identity) -> bytes:
    if not isinstance(identity, ObjectKey):
        return repr(identity).encode()
    return b"%d\0%b\0%b\0%b" % identity
