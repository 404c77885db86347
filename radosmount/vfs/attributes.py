"""What stat(2) shows of an inode. Pure."""

import stat
from dataclasses import dataclass
from typing import Final

from radosmount.config import ViewConfig
from radosmount.store import posix
from radosmount.store.posix import Posix
from radosmount.vfs.nodes import DirectoryNode, FileNode, Node

# cp, cat and Python size their reads by it.
PREFERRED_IO_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Attributes:
    """`mode` has the type bits; times are ns since the epoch.

    `valid_s`: how long the kernel may answer from them without asking.
    """

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    valid_s: float


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What setattr(2)'s family asks for; None leaves it as it is."""

    size: int | None = None
    mtime_ns: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None

    @property
    def has_owner_or_mode(self) -> bool:
        return any(value is not None for value in (self.mode, self.uid, self.gid))


def attributes_of(
    node: Node, view: ViewConfig, mounted_ns: int, nlink: int, valid_s: float
) -> Attributes:
    """`nlink` and `mounted_ns` are for directories: one without a marker has no time of its own
    but that of the mount's start, or of the last change that it has made there."""
    if isinstance(node, FileNode):
        return _file_attributes(node, view, valid_s)
    kept, mtime_ns = posix.NONE, mounted_ns
    if isinstance(node, DirectoryNode):
        if node.marker is not None:
            kept = node.marker.posix or kept
            mtime_ns = kept.exact_mtime_ns(node.marker.mtime_s)
        mtime_ns = max(mtime_ns, node.changed_ns)
    permissions, uid, gid = _access(kept, view, view.directory_mode)
    mode = stat.S_IFDIR | permissions
    return Attributes(node.ino, mode, nlink, uid, gid, 0, mtime_ns, valid_s)


def link_target(node: FileNode) -> bytes | None:
    """Where it points, if it is a symbolic link: whoever writes to such an object ends that."""
    file = node.file
    return file.posix.target if file.size == 0 else None


def _file_attributes(node: FileNode, view: ViewConfig, valid_s: float) -> Attributes:
    file, kept = node.file, node.file.posix
    permissions, uid, gid = _access(kept, view, view.file_mode)
    mode, size = stat.S_IFREG | permissions, file.size
    if kept.target is not None and (target := link_target(node)) is not None:
        mode, size = stat.S_IFLNK | 0o777, len(target)
    nlink = 0 if file.is_unlinked else 1
    return Attributes(
        node.ino, mode, nlink, uid, gid, size, kept.exact_mtime_ns(file.mtime_s), valid_s
    )


def _access(kept: Posix, view: ViewConfig, mode_of_mount: int) -> tuple[int, int, int]:
    """Permission bits, uid and gid: what is kept, else the mount's."""
    mode = mode_of_mount if kept.mode is None else stat.S_IMODE(kept.mode)
    uid = view.uid if kept.uid is None else kept.uid
    return mode, uid, view.gid if kept.gid is None else kept.gid
