"""Open files and directories. No I/O."""

import itertools
from dataclasses import dataclass
from typing import TypeVar

from radosmount.cache.readahead import HandleAhead
from radosmount.errors import RadosmountError
from radosmount.store.interface import ReadResult
from radosmount.vfs.listing import Listing
from radosmount.vfs.lookahead import LookAhead
from radosmount.vfs.nodes import FileNode
from radosmount.vfs.statahead import StatAhead

T = TypeVar("T")


class FileHandle:
    """One open(2) of a file. It hears of every failed flush once."""

    def __init__(self, node: FileNode, is_writable: bool, is_append: bool) -> None:
        self.node = node
        self.file = node.file
        self.is_writable = is_writable
        self.is_append = is_append
        self.is_direct = False  # the kernel's pages have no part in its reads
        self.stale_count = 0  # of the node, when it was opened
        self.clears_setuid = False  # the kernel leaves that to us
        self.head: ReadResult | None = None  # came with the look-up, for the first read
        self.ahead: HandleAhead | None = None  # from the first read on
        self._heard_error_count = node.file.reported_error_count
        # That the writer knows of; an append goes behind whatever others have written.
        self.known_change_count = None if is_append else node.file.foreign.count

    @property
    def is_outdated(self) -> bool:
        """Whether someone else has changed the file since this open, as the mount has heard. What
        is written is guarded by what was heard last, so this would let it through."""
        return self.file.has_changed_since(self.known_change_count)

    @property
    def has_flush(self) -> bool:
        """Whether close(2) has anything to do: O_CREAT may come with O_RDONLY."""
        return self.is_writable or self.file.is_new

    def note_dropped(self) -> None:
        """The kernel asks by this handle: it has processed the answer of the open, which had it
        drop its pages. Until then another open is told so, too, lest it reads them."""
        node = self.node
        node.dropped_count = max(node.dropped_count, self.stale_count)

    def take_head(self, offset: int, length: int) -> bytes | None:
        """What a first read can be answered with at once, if that is still right."""
        head, self.head = self.head, None
        file = self.file
        if head is None or offset or not file.is_clean or head.version != file.base.version:
            return None
        length = min(length, file.size)
        return head.data[:length] if length <= len(head.data) else None

    @property
    def has_heard_all(self) -> bool:
        return self._heard_error_count >= self.file.error_count

    def unheard_error(self) -> RadosmountError | None:
        """The error of a failed flush, where this handle has not heard of it yet."""
        file = self.file
        if self.has_heard_all:
            return None
        self._heard_error_count = file.error_count
        file.reported_error_count = file.error_count
        return file.error


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """One opendir(3). `stat_ahead` outlives it: names are listed first, and asked for later."""

    ino: int
    listing: Listing
    stat_ahead: StatAhead
    look_ahead: LookAhead
    vanished_count: int  # what had vanished before it was opened


class HandleTable(dict[int, T]):
    """Handles by the number that the kernel holds."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    def reserve(self) -> int:
        """A number for a handle that is to be added, if all goes well."""
        return next(self._numbers)

    def add(self, handle: T, number: int | None = None) -> int:
        """`number`: that was reserved for it."""
        number = next(self._numbers) if number is None else number
        self[number] = handle
        return number
