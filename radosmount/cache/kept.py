"""Which files keep the content that their last flush has stored, so that a rename need not read
it back.

Pure. The bytes belong to the file (`CachedFile.stored`), which drops them when they count no
more; here is the bound on all of them together: the oldest are dropped first.
"""

import weakref
from collections import deque
from typing import Final

from radosmount.cache.file import CachedFile
from radosmount.config import KIB, MIB
from radosmount.store.interface import ReadResult

# What is written and renamed at once (editors, rsync, git) is mostly small; reading back what is
# larger costs little beside storing it twice.
FILE_BYTES_MAX: Final = MIB
# Enough for several such programs at work.
TOTAL_BYTES_MAX: Final = 4 * MIB
# What a file counts for at least, so that empty ones are bounded, too.
FILE_BYTES_MIN: Final = 4 * KIB


class KeptContents:
    """What was dropped by its file counts until its turn comes: the total is an upper bound."""

    def __init__(self) -> None:
        self._kept: deque[tuple[weakref.ref[CachedFile], int, int]] = deque()
        self._held_bytes = 0

    def keep(self, file: CachedFile, content: ReadResult) -> None:
        """`content` is the whole object as it is now."""
        if len(content.data) > FILE_BYTES_MAX:
            return
        file.stored = content
        byte_count = max(len(content.data), FILE_BYTES_MIN)
        self._kept.append((weakref.ref(file), content.version, byte_count))
        self._held_bytes += byte_count
        while self._held_bytes > TOTAL_BYTES_MAX:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        reference, version, byte_count = self._kept.popleft()
        self._held_bytes -= byte_count
        file = reference()
        if file is not None and file.stored is not None and file.stored.version == version:
            file.stored = None
