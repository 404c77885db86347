"""Open files: what open(2) promises, and what happens between it and the last close."""

import os
from dataclasses import dataclass
from typing import Final

from radosmount.cache.extents import Buffer
from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.cache.readahead import HandleAhead, ReadAhead
from radosmount.config import CacheConfig, ConflictMode, FlushMode
from radosmount.errors import IsDirectory, StaleFile
from radosmount.store.interface import Notice, ReadResult
from radosmount.vfs.handles import FileHandle, HandleTable
from radosmount.vfs.metadata import Metadata
from radosmount.vfs.nodes import FileNode, NodeTable
from radosmount.vfs.objects import Objects
from radosmount.vfs.pools import Pools
from radosmount.vfs.removal import Removal
from radosmount.vfs.retries import Retries

# A read is asked for anew where the file was changed behind it, by others or a rename over it.
READ_ATTEMPT_COUNT: Final = 5


@dataclass(frozen=True, slots=True)
class OpenFile:
    """`keeps_pages`: what the kernel has cached of the file is what the store has.
    `keeps_attributes`: so may be the attributes that it was told. `has_flush`: its close(2) has
    something to wait for, or to hear."""

    handle: int
    keeps_pages: bool
    keeps_attributes: bool
    has_flush: bool


class OpenFiles:
    """All handles of a mount, by number."""

    def __init__(
        self,
        nodes: NodeTable,
        pools: Pools,
        objects: Objects,
        metadata: Metadata,
        cache: PageCache,
        removal: Removal,
        retries: Retries,
        ahead: ReadAhead,
        config: CacheConfig,
    ) -> None:
        self.handles: HandleTable[FileHandle] = HandleTable()
        self.ahead = ahead
        self._nodes = nodes
        self._pools = pools
        self._objects = objects
        self._metadata = metadata
        self._cache = cache
        self._removal = removal
        self._retries = retries
        self._flush_mode = config.flush
        self._has_guard = config.conflict is ConflictMode.FAIL

    def opened(
        self,
        node: FileNode,
        flags: int,
        head: ReadResult | None = None,
        number: int | None = None,
    ) -> OpenFile:
        """A new handle. O_TRUNC takes effect with the next flush."""
        is_writable = _is_for_writing(flags)
        if flags & os.O_TRUNC:
            self._cache.truncate(node.file, 0)
        opened = FileHandle(node, is_writable, bool(flags & os.O_APPEND))
        opened.head = head
        opened.is_direct = bool(flags & (os.O_DIRECT | os.O_APPEND))
        node.open_count += 1
        node.file.writer_count += is_writable
        keeps_pages = node.dropped_count == node.stale_count
        opened.stale_count = node.stale_count
        keeps_attributes = node.shown_version in (None, node.file.base.version)
        number = self.handles.add(opened, number)
        return OpenFile(number, keeps_pages, keeps_attributes, opened.has_flush)

    async def open(self, ino: int, flags: int, caller: int = 0, uid: int = 0) -> OpenFile:
        """Asks the store what the object is now (close-to-open). `uid`: whose open it is.

        Raises: ReadOnly and AccessDenied where writing is asked for and not possible;
        StaleFile where the object is gone, so that the kernel looks the name up again.
        """
        node = self._nodes[ino]
        if not isinstance(node, FileNode):
            raise IsDirectory(f"inode {ino}")
        if _is_for_writing(flags):
            await self._pools.check_writable(node.file.key[:2])
        try:
            head = await self._objects.validate_for_open(node, caller)
            while (left := self._retries.left(node.file.key)) is not None:
                await left.wait()
                head = await self._objects.validate_for_open(node, caller)
        except StaleFile:
            self._retries.expect(node.file.key, caller)
            raise
        if caller in self._retries:
            self._retries.forget(caller)
        opened = self.opened(node, flags, head)
        # Appends go past the kernel's pages, and there it does not clear setuid bits itself.
        self.handles[opened.handle].clears_setuid = uid != 0 and bool(flags & os.O_APPEND)
        return opened

    async def read(self, handle: int, offset: int, length: int) -> Buffer:
        """Fewer bytes than asked only at the end of the file."""
        opened = self.handles[handle]
        node = opened.node
        opened.note_dropped()
        if opened.head is not None:
            head = opened.take_head(offset, length)
            if head is not None:
                return head
        ahead = opened.ahead
        if ahead is None:
            ahead = opened.ahead = HandleAhead()
        for _ in range(READ_ATTEMPT_COUNT):
            try:
                content = await self.ahead.read(ahead, node.file, offset, length)
            except StaleFile:
                if not await self._removal.settle_gone(node):
                    raise
                return await self.ahead.read(ahead, node.file, offset, length)
            if node.replaced is not None:  # that may be of what replaces it
                await node.replaced.wait()
            elif node.file.is_suspect and node.file.is_clean:  # the kernel would keep it as known
                is_from_start = offset == 0 and not opened.is_direct
                await self._objects.refresh(node, length if is_from_start else 0)
            else:
                break
        return content

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        """With O_APPEND `offset` does not count: the kernel took it from a size that may be
        old. Raises: FileTooBig; DeadlineExceeded; StaleFile; with `sync` the flush's error."""
        opened = self.handles[handle]
        if opened.is_outdated:
            await self.check_unchanged(handle)
        change_count = opened.known_change_count if self._has_guard else None
        await self._cache.write(opened.file, offset, data, opened.is_append, change_count)
        if opened.clears_setuid:
            self._metadata.clear_setuid(opened.file)
        if self._flush_mode is FlushMode.SYNC:
            _raise_unheard(opened)
        return len(data)

    async def flush(self, handle: int, notice: Notice | None = None, caller: int = 0) -> None:
        """close(2), of every duplicate of a descriptor. Raises: a failed flush's error, once."""
        opened = self.handles[handle]
        if not opened.has_flush:  # the kernel asks all the same: before Linux 5.16, by pyfuse3
            return
        if self._flush_mode is FlushMode.LAZY:
            _raise_unheard(opened)
        else:
            await self._flush(opened, notice, caller)

    async def sync(self, handle: int, notice: Notice | None = None, caller: int = 0) -> None:
        """fsync(2). Raises: a failed flush's error, once."""
        await self._flush(self.handles[handle], notice, caller)

    async def release(self, handle: int) -> None:
        """The last descriptor is gone. What came after the last flush (mmap) is stored now.

        What has just failed is not tried again here: close(2) has said so, and a second failure
        would be news to nobody but the next opener. Nor must that one, which may be the program
        that just closed the file, meet bytes that are about to be given up.
        """
        opened = self.handles.pop(handle)
        if opened.ahead is not None:
            self.ahead.close(opened.ahead)
        opened.note_dropped()
        node = opened.node
        node.file.writer_count -= opened.is_writable
        is_due = opened.is_writable and self._flush_mode is not FlushMode.LAZY
        try:
            if is_due and not node.file.is_clean and not self._cache.has_failed(node.file):
                await self._cache.flush(node.file)
        finally:
            node.open_count -= 1
            self._after_release(node)

    def after_flush(self, file: CachedFile) -> None:
        """For `PageCache`."""
        node = self._nodes.find_file(file.key)
        if node is not None and node.file is file:
            self._drop_if_given_up(node)
            self._nodes.drop_if_unused(node)

    async def check_unchanged(self, handle: int) -> None:
        """Raises: StaleFile where someone else has changed the file since it was opened."""
        opened = self.handles[handle]
        if not (self._has_guard and opened.is_outdated):
            return
        await self._objects.in_turn(opened.file, _nothing)  # of ours, too, may have been heard
        opened.file.check_unchanged(opened.known_change_count)

    # Inside

    async def _flush(self, opened: FileHandle, notice: Notice | None, caller: int) -> None:
        """Who waits for a flush that fails hears of it, though another, by the same handle (a
        forked child's close), may have heard first. Who has an error to hear gets no notice."""
        file = opened.file
        error_count = file.error_count
        await self._cache.flush(file, notice if opened.has_heard_all else None)
        self._objects.own_changes.note_told(opened.node, caller, notice)
        if file.error_count:
            _raise_unheard(opened)
        if file.error is not None and file.error_count > error_count:
            raise file.error.with_traceback(None)

    def _after_release(self, node: FileNode) -> None:
        file = node.file
        if file.error_count and not file.writer_count and self._cache.has_failed_for_good(file):
            self._cache.give_up(file)
            node.stale_count += 1  # the kernel has what is given up
            self._drop_if_given_up(node)
        if not node.open_count:
            node.close_orphans()
        self._nodes.drop_if_unused(node)

    def _drop_if_given_up(self, node: FileNode) -> None:
        """A new file that could not be stored does not exist."""
        if node.file.is_new and node.file.is_clean:
            node.file.is_unlinked = True
            self._nodes.unlink(node)


def _is_for_writing(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)


async def _nothing() -> None:
    pass


def _raise_unheard(handle: FileHandle) -> None:
    error = handle.unheard_error()
    if error is not None:
        raise error.with_traceback(None)
