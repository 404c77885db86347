"""FUSE requests to calls of `Filesystem` and back: decode, call, encode; nothing else.

Signatures are pyfuse3's. What its documents do not say (see docs/decisions): O_TRUNC comes with
open; READ and WRITE tell the handle only; setxattr's flags are checked before it calls.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    RequestContext,
    SetattrFields,
    XAttrNameT,
)

from radosmount.fuse.encoders import Encoder, Pyfuse3Encoder
from radosmount.fuse.replies import answers
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.filesystem import Filesystem
from radosmount.vfs.metadata import Creator
from radosmount.vfs.objects import LISTED_NAME_FRESHNESS_S

log = logging.getLogger(__name__)

RENAME_NOREPLACE: Final = 1  # rename(2)
# Of names with their inodes one reply has no more, whatever room there is: each takes some 20 µs,
# and others wait.
NODES_A_REPLY: Final = 128


class Operations(pyfuse3.Operations):
    """`on_init`: called when the kernel's INIT is being answered.

    `encode`: the form of what is returned. With our own server (server.py) the arguments have its
    types in place of pyfuse3's: a request for `ctx`, a list under construction for `token`.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: Filesystem, on_init: Callable[[], None]) -> None:
        super().__init__()
        self.filesystem = filesystem
        self._on_init = on_init
        self.encode: Encoder = Pyfuse3Encoder()

    def init(self) -> None:
        self._on_init()

    # Names

    @answers
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> Any:
        return self.encode.entry(await self.filesystem.lookup(parent_inode, name, ctx.pid))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        try:
            self.filesystem.forget(inode_list)
        except Exception:  # nobody waits for an answer, and pyfuse3 would end
            log.exception("forget%r: unexpected", inode_list)

    @answers
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self.filesystem.unlink(parent_inode, name, caller=ctx.pid)

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
        may_replace = may_replace_by(flags)
        await self.filesystem.rename(
            parent_inode_old, name_old, parent_inode_new, name_new, may_replace
        )

    @answers
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> Any:
        creator = Creator(stat.S_IMODE(mode), ctx.uid, ctx.gid)
        return self.encode.entry(await self.filesystem.make_directory(parent_inode, name, creator))

    @answers
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self.filesystem.remove_directory(parent_inode, name)

    @answers
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> Any:
        creator = Creator(0o777, ctx.uid, ctx.gid)
        return self.encode.entry(
            await self.filesystem.make_link(parent_inode, name, target, creator)
        )

    @answers
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(await self.filesystem.read_link(inode))

    @answers
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> Any:
        raise FUSEError(errno.EPERM)  # link(2): does not support hard links

    @answers
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> Any:
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)  # mknod(2): does not support this type of node
        creator = Creator(stat.S_IMODE(mode), ctx.uid, ctx.gid)
        return self.encode.entry(await self.filesystem.make_file(parent_inode, name, creator))

    # Attributes

    @answers
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> Any:
        return self.encode.entry(await self.filesystem.get_attributes(inode, ctx.pid))

    @answers
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> Any:
        change = _attribute_change(attr, fields)
        found = await self.filesystem.set_attributes(inode, change, fh, ctx.pid)
        return self.encode.entry(found)

    @answers
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """Asked on mounts that are root's alone; else the kernel goes by the modes."""
        await self.filesystem.check_access(inode, mode, ctx.pid)
        return True

    @answers
    async def statfs(self, ctx: RequestContext) -> Any:
        return self.encode.space(await self.filesystem.space())

    # Files

    @answers
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> Any:
        creator = Creator(stat.S_IMODE(mode), ctx.uid, ctx.gid)
        opened, attributes = await self.filesystem.create(parent_inode, name, flags, creator)
        return self.encode.created(opened, is_direct_io(flags), attributes)

    @answers
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> Any:
        opened = await self.filesystem.open(inode, flags, ctx.pid, ctx.uid)
        if not opened.keeps_attributes:
            self.encode.forget_attributes(inode)
        return self.encode.opened(opened, is_direct_io(flags))

    @answers
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await self.filesystem.read(fh, off, size)  # type: ignore[return-value] # any buffer

    @answers
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self.filesystem.write(fh, off, buf)

    @answers
    async def flush(self, fh: FileHandleT) -> None:
        await self.filesystem.flush(fh)

    @answers
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self.filesystem.sync(fh)

    @answers
    async def release(self, fh: FileHandleT) -> None:
        await self.filesystem.release(fh)

    # Directories

    @answers
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> Any:
        return self.encode.directory(self.filesystem.open_directory(inode))

    @answers
    async def readdir(self, fh: FileHandleT, start_id: int, token: Any) -> None:
        if self.encode.has_bare:
            names = await self.filesystem.bare_names(fh, start_id)
            if names is not None:
                self.encode.add_bare(token, names, start_id)
                return
        index = start_id
        for _ in range(NODES_A_REPLY):
            entry = await self.filesystem.list_entry(fh, index)
            if entry is None:
                break
            told = self.encode.entry(entry.attributes, LISTED_NAME_FRESHNESS_S)
            index = entry.next_index
            is_taken = self.encode.add_entry(token, entry.name, told, index)
            self.filesystem.take_entry(entry, is_taken)
            if not is_taken:
                break

    @answers
    async def releasedir(self, fh: FileHandleT) -> None:
        await self.filesystem.release_directory(fh)

    @answers
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self.filesystem.sync_directory(fh)

    # Extended attributes

    @answers
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return await self.filesystem.get_xattr(inode, name)

    @answers
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Any:
        return self.encode.xattr_names(await self.filesystem.list_xattrs(inode))

    @answers
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        await self.filesystem.set_xattr(inode, name, value, caller=ctx.pid)

    @answers
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self.filesystem.set_xattr(inode, name, None, caller=ctx.pid)


def _attribute_change(attr: EntryAttributes, fields: SetattrFields) -> AttributeChange:
    return AttributeChange(
        size=attr.st_size if fields.update_size else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
    )


def may_replace_by(flags: int) -> bool:
    """By rename(2)'s flags. Raises: FUSEError for those that are not supported here."""
    if flags & ~RENAME_NOREPLACE:
        raise FUSEError(errno.EINVAL)
    return not flags & RENAME_NOREPLACE


def is_direct_io(flags: int) -> bool:
    """An append goes past the kernel's pages: it would come in two where it crosses a page that is
    not there, and what another mount appends could get between."""
    return bool(flags & os.O_APPEND)
