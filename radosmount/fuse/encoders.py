"""What goes back to the kernel, in the form of whoever writes it: pyfuse3, or our own device.

Attributes are encoded in two ways only, both here. The errors are replies.py's.
"""

import contextlib
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import pyfuse3

from radosmount.fuse.bare import make_bare_reply
from radosmount.vfs.attributes import PREFERRED_IO_BYTES, Attributes
from radosmount.vfs.directories import BareName
from radosmount.vfs.openfiles import OpenFile
from radosmount.vfs.usage import SpaceUsage

# statfs(2) counts in units; df shows them as they are.
UNIT_BYTES: Final = 4096
NAME_BYTES_MAX: Final = 255
DIRECTORY_NAME_FRESHNESS_S: Final = 1.0
SECTOR_BYTES: Final = 512  # of st_blocks (stat(2))


class Encoder(Protocol):
    """`has_bare`: names can be listed without their inodes."""

    has_bare: bool

    def entry(self, attributes: Attributes, name_timeout_s: float = 0.0) -> Any:
        """`name_timeout_s`: how long the kernel may keep the name of a file; see `kept_s`."""
        ...

    def opened(self, opened: OpenFile, is_direct: bool) -> Any: ...

    def created(self, opened: OpenFile, is_direct: bool, attributes: Attributes) -> Any: ...

    def directory(self, handle: int) -> Any: ...

    def space(self, usage: SpaceUsage) -> Any: ...

    def xattr_names(self, names: Sequence[bytes]) -> Any: ...

    def add_entry(self, reply: Any, name: bytes, entry: Any, following: int) -> bool:
        """Whether there was room. `following`: the number of the entry to go on with."""
        ...

    def add_bare(self, reply: Any, names: Iterable[BareName], index: int) -> None:
        """As many as there is room for. `index`: the number of the first."""
        ...

    def forget_attributes(self, ino: int) -> None:
        """The kernel does this at once, and waits for nothing of ours, as it would for pages."""
        ...


def kept_s(attributes: Attributes, name_timeout_s: float) -> float:
    """How long the kernel may keep a name. A file's that was looked up it may not, since an open
    goes by the look-up just before it; one that was listed it may: whatever is done with it asks,
    and ESTALE, where the object is gone, has the kernel look the name up. A directory's is on the
    way to every file below it: it is kept for a second."""
    return DIRECTORY_NAME_FRESHNESS_S if stat.S_ISDIR(attributes.mode) else name_timeout_s


class Pyfuse3Encoder:
    def __init__(self) -> None:
        self._bare = make_bare_reply()
        self.has_bare = self._bare is not None

    def entry(self, attributes: Attributes, name_timeout_s: float = 0.0) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(attributes.ino)
        entry.generation = 0
        entry.entry_timeout = kept_s(attributes, name_timeout_s)
        entry.attr_timeout = attributes.valid_s
        entry.st_mode = pyfuse3.ModeT(attributes.mode)
        entry.st_nlink = attributes.nlink
        entry.st_uid = attributes.uid
        entry.st_gid = attributes.gid
        entry.st_size = attributes.size
        entry.st_blksize = PREFERRED_IO_BYTES
        entry.st_blocks = -(-attributes.size // SECTOR_BYTES)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attributes.mtime_ns
        return entry

    def opened(self, opened: OpenFile, is_direct: bool) -> pyfuse3.FileInfo:
        handle = pyfuse3.FileHandleT(opened.handle)
        return pyfuse3.FileInfo(fh=handle, keep_cache=opened.keeps_pages, direct_io=is_direct)

    def created(
        self, opened: OpenFile, is_direct: bool, attributes: Attributes
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        return self.opened(opened, is_direct), self.entry(attributes)

    def directory(self, handle: int) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(handle)

    def space(self, usage: SpaceUsage) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = PREFERRED_IO_BYTES
        data.f_frsize = UNIT_BYTES
        data.f_blocks = usage.total_bytes // UNIT_BYTES
        data.f_bfree = data.f_bavail = usage.available_bytes // UNIT_BYTES
        data.f_files = usage.object_count
        data.f_ffree = data.f_favail = 0
        data.f_namemax = NAME_BYTES_MAX
        return data

    def xattr_names(self, names: Sequence[bytes]) -> list[pyfuse3.XAttrNameT]:
        return [pyfuse3.XAttrNameT(name) for name in names]

    def add_entry(
        self,
        reply: pyfuse3.ReaddirToken,
        name: bytes,
        entry: pyfuse3.EntryAttributes,
        following: int,
    ) -> bool:
        return pyfuse3.readdir_reply(reply, pyfuse3.FileNameT(name), entry, following)

    def add_bare(self, reply: pyfuse3.ReaddirToken, names: Iterable[BareName], index: int) -> None:
        assert self._bare is not None
        self._bare.add(reply, names, index)

    def forget_attributes(self, ino: int) -> None:
        with contextlib.suppress(FileNotFoundError):  # it has forgotten the inode by itself
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True)
