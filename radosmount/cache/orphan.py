"""The content of a file that was unlinked, or renamed over, while it is open.

POSIX keeps such a file for whoever has it open; RADOS does not. An anonymous local temporary
file takes its bytes (an object is at most 128 MiB); it goes with the last handle.
"""

import os
import tempfile


class Orphan:
    """Local bytes of one file. Plain blocking calls: they end in the page cache of this host."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="radosmount-", buffering=0)  # noqa: SIM115 - lives as long

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            offset += written
            view = view[written:]

    def truncate(self, size: int) -> None:
        os.ftruncate(self._file.fileno(), size)

    def close(self) -> None:
        self._file.close()
