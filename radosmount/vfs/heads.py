"""The first bytes of files, fetched along with a look-up that an open is expected to follow.

A program that reads many small files pays a look-up and a read for each: two round trips. Once
a thread has opened for reading what it looked up, its next look-ups bring the content with
them. Bytes so fetched serve the first read of the open that follows at once, and nobody else.
"""

from typing import Final

from radosmount.config import KIB
from radosmount.store.interface import ReadResult
from radosmount.vfs.bythread import ByThread
from radosmount.vfs.nodes import FileNode

HEAD_BYTES: Final = 64 * KIB


class Heads:
    """By the thread that looks up, opens and reads; each holds at most one head."""

    def __init__(self) -> None:
        self._readers = ByThread[None]()
        self._heads = ByThread[tuple[FileNode, ReadResult]]()

    def is_expected(self, caller: int) -> bool:
        """Whether an open for reading is likely to follow the thread's look-up."""
        if self._heads.pop(caller, None) is not None:  # the last head was fetched in vain
            self._readers.pop(caller, None)
        return caller in self._readers

    def keep(self, caller: int, node: FileNode, head: ReadResult) -> None:
        self._heads[caller] = (node, head)

    def take(self, caller: int, node: FileNode) -> ReadResult | None:
        """The thread opens the file for reading, right after it has looked it up."""
        kept = self._heads.pop(caller, None)
        if node.file.size > HEAD_BYTES:
            self._readers.pop(caller, None)  # large files are read on in the kernel's way
            return None
        self._readers[caller] = None
        return kept[1] if kept is not None and kept[0] is node else None
