"""FUSE requests to calls of `Filesystem` and back: decode, call, encode; nothing else.

Signatures are pyfuse3's. What its documents do not say (see docs/decisions): O_TRUNC comes with
open; READ and WRITE tell the handle only; setxattr's flags are checked before it calls.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from radosmount.fuse.bare import make_bare_reply
from radosmount.fuse.replies import (
    Answering,
    answers,
    entry_attributes,
    statvfs_data,
)
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.filesystem import Filesystem
from radosmount.vfs.metadata import Creator
from radosmount.vfs.objects import LISTED_NAME_FRESHNESS_S
from radosmount.vfs.openfiles import OpenFile

log = logging.getLogger(__name__)

RENAME_NOREPLACE: Final = 1  # rename(2)
# Of names with their inodes one reply has no more, whatever room there is: each takes some 20 µs,
# and others wait.
NODES_A_REPLY: Final = 128


class Operations(Answering):
    """`on_init`: called when the kernel's INIT is being answered."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: Filesystem, on_init: Callable[[], None]) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._on_init = on_init
        self._bare = make_bare_reply()

    def init(self) -> None:
        self._on_init()

    # Names

    @answers
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return entry_attributes(await self._filesystem.lookup(parent_inode, name, ctx.pid))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        try:
            self._filesystem.forget(inode_list)
        except Exception:  # nobody waits for an answer, and pyfuse3 would end
            log.exception("forget%r: unexpected", inode_list)

    @answers
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._filesystem.unlink(parent_inode, name)

    @answers
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)  # rename(2): not supported by the filesystem
        may_replace = not flags & RENAME_NOREPLACE
        await self._filesystem.rename(
            parent_inode_old, name_old, parent_inode_new, name_new, may_replace
        )

    @answers
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        creator = Creator(stat.S_IMODE(mode), ctx.uid, ctx.gid)
        return entry_attributes(await self._filesystem.make_directory(parent_inode, name, creator))

    @answers
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._filesystem.remove_directory(parent_inode, name)

    @answers
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        creator = Creator(0o777, ctx.uid, ctx.gid)
        return entry_attributes(
            await self._filesystem.make_link(parent_inode, name, target, creator)
        )

    @answers
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(await self._filesystem.read_link(inode))

    @answers
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)  # link(2): does not support hard links

    @answers
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)  # mknod(2): does not support this type of node
        creator = Creator(stat.S_IMODE(mode), ctx.uid, ctx.gid)
        return entry_attributes(await self._filesystem.make_file(parent_inode, name, creator))

    # Attributes

    @answers
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return entry_attributes(await self._filesystem.get_attributes(inode, ctx.pid))

    @answers
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        change = _attribute_change(attr, fields)
        return entry_attributes(await self._filesystem.set_attributes(inode, change, fh))

    @answers
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """Asked on mounts that are root's alone; else the kernel goes by the modes."""
        await self._filesystem.check_access(inode, mode)
        return True

    @answers
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return statvfs_data(await self._filesystem.space())

    # Files

    @answers
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        creator = Creator(stat.S_IMODE(mode), ctx.uid, ctx.gid)
        opened, attributes = await self._filesystem.create(parent_inode, name, flags, creator)
        return _file_info(opened, flags), entry_attributes(attributes)

    @answers
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        opened = await self._filesystem.open(inode, flags, ctx.pid, ctx.uid)
        if not opened.keeps_attributes:
            _forget_attributes(inode)
        return _file_info(opened, flags)

    @answers
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await self._filesystem.read(fh, off, size)  # type: ignore[return-value] # any buffer

    @answers
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._filesystem.write(fh, off, buf)

    @answers
    async def flush(self, fh: FileHandleT) -> None:
        await self._filesystem.flush(fh)

    @answers
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._filesystem.sync(fh)

    @answers
    async def release(self, fh: FileHandleT) -> None:
        await self._filesystem.release(fh)

    # Directories

    @answers
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(self._filesystem.open_directory(inode))

    @answers
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        if self._bare is not None:
            names = await self._filesystem.bare_names(fh, start_id)
            if names is not None:
                self._bare.add(token, names, start_id)
                return
        index = start_id
        for _ in range(NODES_A_REPLY):
            entry = await self._filesystem.list_entry(fh, index)
            if entry is None:
                break
            attributes = entry_attributes(entry.attributes, LISTED_NAME_FRESHNESS_S)
            index = entry.next_index
            is_taken = pyfuse3.readdir_reply(token, FileNameT(entry.name), attributes, index)
            self._filesystem.take_entry(entry, is_taken)
            if not is_taken:
                break

    @answers
    async def releasedir(self, fh: FileHandleT) -> None:
        await self._filesystem.release_directory(fh)

    @answers
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._filesystem.sync_directory(fh)

    # Extended attributes

    @answers
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return await self._filesystem.get_xattr(inode, name)

    @answers
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[XAttrNameT]:
        return [XAttrNameT(name) for name in await self._filesystem.list_xattrs(inode)]

    @answers
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        await self._filesystem.set_xattr(inode, name, value)

    @answers
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self._filesystem.remove_xattr(inode, name)


def _attribute_change(attr: EntryAttributes, fields: SetattrFields) -> AttributeChange:
    return AttributeChange(
        size=attr.st_size if fields.update_size else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
    )


def _forget_attributes(inode: InodeT) -> None:
    """The kernel does this at once, and waits for nothing of ours, as it would for pages."""
    with contextlib.suppress(FileNotFoundError):  # it has forgotten the inode by itself
        pyfuse3.invalidate_inode(inode, attr_only=True)


def _file_info(opened: OpenFile, flags: int) -> FileInfo:
    """An append goes past the kernel's pages: it would come in two where it crosses a page that is
    not there, and what another mount appends could get between."""
    return FileInfo(
        fh=FileHandleT(opened.handle),
        keep_cache=opened.keeps_pages,
        direct_io=bool(flags & os.O_APPEND),
    )
