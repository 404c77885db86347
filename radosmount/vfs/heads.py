"""The first bytes of files, fetched along with a look-up that an open is expected to follow.

A program that reads many small files pays a look-up and a read for each: two round trips. Once
a thread has opened for reading what it looked up, its next look-ups bring the content with
them. Bytes so fetched serve the first read of the open that follows at once, and nobody else.
"""

from collections import OrderedDict
from typing import Final, TypeVar

from radosmount.config import KIB
from radosmount.store.interface import ReadResult
from radosmount.vfs.nodes import FileNode

T = TypeVar("T")

HEAD_BYTES: Final = 64 * KIB
# Threads that are remembered; each holds at most one head.
CALLER_COUNT_MAX: Final = 64


class Heads:
    """By the thread that looks up, opens and reads."""

    def __init__(self) -> None:
        self._readers: OrderedDict[int, None] = OrderedDict()
        self._heads: OrderedDict[int, tuple[FileNode, ReadResult]] = OrderedDict()

    def is_expected(self, caller: int) -> bool:
        """Whether an open for reading is likely to follow the thread's look-up."""
        if self._heads.pop(caller, None) is not None:  # the last head was fetched in vain
            self._readers.pop(caller, None)
        return caller in self._readers

    def keep(self, caller: int, node: FileNode, head: ReadResult) -> None:
        self._heads[caller] = (node, head)
        _trim(self._heads)

    def take(self, caller: int, node: FileNode) -> ReadResult | None:
        """The thread opens the file for reading, right after it has looked it up."""
        kept = self._heads.pop(caller, None)
        if node.file.size > HEAD_BYTES:
            self._readers.pop(caller, None)  # large files are read on in the kernel's way
            return None
        self._readers[caller] = None
        self._readers.move_to_end(caller)
        _trim(self._readers)
        return kept[1] if kept is not None and kept[0] is node else None


def _trim(table: OrderedDict[int, T]) -> None:
    while len(table) > CALLER_COUNT_MAX:
        table.popitem(last=False)
