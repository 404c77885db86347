"""What stat(2) shows of an inode. Pure."""

import stat
from dataclasses import dataclass
from typing import Final

from radosmount.config import ViewConfig
from radosmount.vfs.nodes import FileNode, Node

NS_PER_S: Final = 1_000_000_000
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


def attributes_of(
    node: Node, view: ViewConfig, directory_mtime_ns: int, valid_s: float
) -> Attributes:
    """RADOS has no directories, so they have no times of their own: the mount's start."""
    if isinstance(node, FileNode):
        return _file_attributes(node, view, valid_s)
    mode = stat.S_IFDIR | view.directory_mode
    return Attributes(node.ino, mode, 2, view.uid, view.gid, 0, directory_mtime_ns, valid_s)


def _file_attributes(node: FileNode, view: ViewConfig, valid_s: float) -> Attributes:
    file = node.file
    mode = stat.S_IFREG | view.file_mode
    nlink = 0 if file.is_unlinked else 1
    mtime_ns = file.mtime_s * NS_PER_S
    return Attributes(node.ino, mode, nlink, view.uid, view.gid, file.size, mtime_ns, valid_s)
