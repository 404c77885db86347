"""What each file system call means here.

The layer's face: one method a call, each short. It knows neither FUSE nor RADOS: inodes and
handles are numbers, failures are `errors`. How objects are found, removed and renamed, what
directories and xattrs are, stands in the modules beside.
"""

import functools
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from radosmount.background import keep_running
from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.cache.readahead import ReadAhead
from radosmount.cache.sequencer import Sequencer
from radosmount.cache.spool import Spool, Spooler
from radosmount.config import CacheConfig, ViewConfig
from radosmount.errors import (
    AccessDenied,
    CrossPool,
    EntryExists,
    InvalidCall,
    IsDirectory,
    NotPermitted,
    RadosmountError,
)
from radosmount.store.interface import Notice, ObjectKey, Store
from radosmount.vfs.attributes import AttributeChange, Attributes, attributes_of, link_target
from radosmount.vfs.directories import BareName, Directories
from radosmount.vfs.metadata import Creator, Metadata
from radosmount.vfs.nodes import ROOT_INO, DirectoryNode, FileNode, Node, NodeTable, RootNode
from radosmount.vfs.objects import OPEN_FRESHNESS_S, Objects
from radosmount.vfs.openfiles import OpenFile, OpenFiles
from radosmount.vfs.pools import Pools
from radosmount.vfs.removal import Removal
from radosmount.vfs.renaming import Renaming
from radosmount.vfs.retries import Retries
from radosmount.vfs.usage import SpaceMeter, SpaceUsage
from radosmount.vfs.xattrs import XattrCalls

log = logging.getLogger(__name__)

DIRECTORY_FRESHNESS_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ListedEntry:
    name: bytes
    attributes: Attributes
    next_index: int


class Filesystem:
    """One mount. `nursery` is for background work and outlives every call;
    `invalidate(ino)` has the kernel drop its pages of an inode some time soon. Without a `spool`,
    what can never be stored is lost."""

    def __init__(
        self,
        store: Store,
        view: ViewConfig,
        cache: CacheConfig,
        nursery: trio.Nursery,
        invalidate: Callable[[int], None] = lambda ino: None,
        spool: Spool | None = None,
    ) -> None:
        self._view = view
        self._nursery = nursery
        self._started_ns = time.time_ns()
        self._nodes = NodeTable()
        self._pools = Pools(store, view)
        self._space = SpaceMeter(store)
        self._sequencer = Sequencer(nursery, view.timeout_s)
        spooler = None if spool is None else Spooler(spool, nursery)

        def unlink_gone(file: CachedFile) -> bool:
            return self._removal.unlink_gone(file)

        self._cache = PageCache(
            store,
            cache,
            self._sequencer,
            lambda file: self._opens.after_flush(file),
            spooler,
            unlink_gone,
        )
        self._objects = Objects(
            store, self._nodes, self._cache, self._sequencer, invalidate, unlink_gone
        )
        self._retries = Retries()
        self._removal = Removal(store, self._nodes, self._cache, self._objects, self._retries)
        self._renaming = Renaming(
            store, self._nodes, self._cache, self._sequencer, self._removal, self._retries
        )
        self._directories = Directories(
            store, view, self._nodes, self._pools, self._objects, nursery
        )
        self._xattrs = XattrCalls(store, view, self._pools, self._objects, self._cache)
        self._metadata = Metadata(store, view, self._objects, self._cache, self._sequencer)
        self._opens = OpenFiles(
            self._nodes,
            self._pools,
            self._objects,
            self._metadata,
            self._cache,
            self._removal,
            self._retries,
            ReadAhead(store, self._cache, nursery, cache.size_bytes // 8),
            cache,
        )
        # What is done to open files: every request that is saved a call shows.
        self.open: Final = self._opens.open
        self.open_directory: Final = self._directories.open
        self.read: Final = self._opens.read
        self.write: Final = self._opens.write
        self.flush: Final = self._opens.flush
        self.sync: Final = self._opens.sync
        self.release: Final = self._opens.release

    async def start(self) -> None:
        """Find the root's pool and begin background work. Raises: MountError."""
        place = await self._pools.start()
        self._nodes.set_root(RootNode() if place is None else DirectoryNode(place))
        self._nursery.start_soon(keep_running, "writing back", self._cache.run)
        self._nursery.start_soon(keep_running, "watching the pools", self._pools.run)
        if place is not None:
            self._nursery.start_soon(self._directories.warm_up, place)

    # Names

    async def lookup(self, parent: int, name: bytes, caller: int = 0) -> Attributes:
        """One more reference. `caller`: the thread that asks, or 0. Raises: NoSuchEntry."""
        found = self._directories.child(parent, name, caller)
        if caller in self._retries:
            found = self._retries.look_up(caller, found)
        return self._referenced(await found)

    def forget(self, inodes: Sequence[tuple[int, int]]) -> None:
        """The kernel gives back references, as (inode, count)."""
        for ino, lookup_count in inodes:
            self._nodes.forget(ino, lookup_count)

    async def unlink(
        self, parent: int, name: bytes, notice: Notice | None = None, caller: int = 0
    ) -> None:
        """Remove a file; open handles keep its content. Raises: NoSuchEntry."""
        self._objects.changers.note_change(caller)
        key = await self._directories.key_for_change(parent, name)
        await self._remove(key, notice)
        self._objects.own_changes.note_removed(key, caller, notice)
        self._directories.note_changed(parent)

    async def make_directory(
        self, parent: int, name: bytes, creator: Creator | None = None
    ) -> Attributes:
        """One more reference. Raises: EntryExists; NotPermitted where there are no directories."""
        key = await self._directories.key_for_new(parent, name)
        kept = self._metadata.of_new(stat.S_IFDIR, self._heir(parent, creator, is_directory=True))
        marker = await self._objects.create(key, is_exclusive=True, kept=kept)
        self._nodes.drop_if_unused(marker)
        self._directories.note_changed(parent)
        return self._referenced(self._directories.made(parent, name, marker.file.base))

    async def make_link(
        self, parent: int, name: bytes, target: bytes, creator: Creator
    ) -> Attributes:
        """symlink(2). One more reference. Raises: EntryExists; NotPermitted without `posix`."""
        if not self._view.has_posix:
            raise NotPermitted("only with -o posix are there symbolic links")
        key = await self._directories.key_for_change(parent, name)
        kept = self._metadata.of_new(stat.S_IFLNK, self._heir(parent, creator), target)
        node = await self._objects.create(key, is_exclusive=True, kept=kept)
        self._directories.note_changed(parent)
        return self._referenced(node)

    async def read_link(self, ino: int) -> bytes:
        """Raises: InvalidCall for what is no symbolic link; StaleFile."""
        node = self._nodes[ino]
        if isinstance(node, FileNode):
            if not node.file.base.version:  # only listed so far
                await self._objects.revalidate(node)
            target = link_target(node)
            if target is not None:
                return target
        raise InvalidCall(f"inode {ino} is no symbolic link")

    async def remove_directory(self, parent: int, name: bytes) -> None:
        """Raises: DirectoryNotEmpty; NoSuchEntry; NotPermitted as above."""
        key = await self._directories.key_for_removal(parent, name)
        if key is not None:
            await self._remove(key)
            self._directories.removed(parent, name)
        self._directories.note_changed(parent)

    async def rename(
        self,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        may_replace: bool,
        notice: Notice | None = None,
        caller: int = 0,
    ) -> None:
        """Rename a file within its pool.

        Raises: NoSuchEntry; EntryExists; CrossPool for pools, namespaces and directories.
        """
        if isinstance(self._nodes[old_parent], RootNode):
            raise NotPermitted("pools cannot be renamed here: `ceph osd pool rename`")
        await self._directories.check_no_directory(old_parent, old_name)
        old = await self._directories.key_for_change(old_parent, old_name)
        new = await self._directories.key_for_change(new_parent, new_name)
        if (old.pool_id, old.namespace) != (new.pool_id, new.namespace):
            raise CrossPool("RADOS moves nothing between pools")
        if old != new:
            await self._renaming.rename(old, new, may_replace, notice)
            self._objects.own_changes.note_removed(old, caller, notice)
            self._directories.note_changed(old_parent)
            self._directories.note_changed(new_parent)

    # Attributes

    async def get_attributes(self, ino: int, caller: int = 0) -> Attributes:
        """Raises: StaleFile where the object is gone and nobody here has it open."""
        node = self._nodes[ino]
        if isinstance(node, FileNode) and not self._objects.is_fresh(node):
            await self._objects.get_attributes(node, caller)
        elif isinstance(node, DirectoryNode):
            await self._directories.refresh(node)
        return self._attributes(node, self._freshness_s(node, has_looked_up=False))

    async def check_access(self, ino: int, mask: int, caller: int = 0) -> None:
        """access(2), and chdir(2), by root. `mask`: os.R_OK and so on, os.F_OK: is it there?

        Raises: AccessDenied for the execution of a file that nobody may execute, and for writing
        without the caps; ReadOnly; StaleFile where the object is gone.
        """
        node = self._nodes[ino]
        if isinstance(node, FileNode):
            mode = (await self.get_attributes(ino, caller)).mode
            if mask & os.X_OK and stat.S_ISREG(mode) and not mode & 0o111:
                raise AccessDenied(f"inode {ino} has no mode bit for it")
        if mask & os.W_OK and isinstance(node, FileNode | DirectoryNode):
            place = node.file.key[:2] if isinstance(node, FileNode) else node.place
            await self._pools.check_writable(place)

    async def set_attributes(
        self, ino: int, change: AttributeChange, handle: int | None = None, caller: int = 0
    ) -> Attributes:
        """A size set without a handle is stored on return, one set with a handle by its close.

        Raises: NotPermitted for modes and owners with `strict_modes`; IsDirectory;
        FileTooBig; StaleFile; what the flush raises.
        """
        if handle is None:
            self._objects.changers.note_change(caller)
        node = self._nodes[ino]
        self._metadata.check(self._attributes(node), change)
        is_kept = self._metadata.is_kept(change)
        if isinstance(node, FileNode):
            await self._pools.check_writable(node.file.key[:2])
            if change.size is not None:
                await self._truncate(node, change.size, handle)
            if is_kept:
                await self._metadata.set_of_file(node, change)
        elif change.size is not None:
            raise IsDirectory(f"inode {ino}")
        elif is_kept and isinstance(node, DirectoryNode):
            await self._set_of_directory(node, change)
        return self._attributes(node)

    # Open files

    async def create(
        self,
        parent: int,
        name: bytes,
        flags: int,
        creator: Creator | None = None,
        notice_of: Callable[[OpenFile, Attributes], Notice] | None = None,
    ) -> tuple[OpenFile, Attributes]:
        """O_CREAT; with O_EXCL exclusive across all clients. One more reference.

        `notice_of`: makes a notice of what will be returned, sent when the object is made.
        """
        key = await self._directories.key_for_change(parent, name)
        is_exclusive = bool(flags & os.O_EXCL)
        kept = self._metadata.of_new(stat.S_IFREG, self._heir(parent, creator))
        handle = self._opens.handles.reserve()
        told: tuple[Notice, OpenFile, Attributes] | None = None

        def notice_of_node(node: FileNode) -> Notice:
            nonlocal told
            assert notice_of is not None
            now = OpenFile(handle, True, True, True), self._attributes(node, OPEN_FRESHNESS_S)
            told = notice_of(*now), *now
            return told[0]

        try:
            node = await self._objects.create(key, is_exclusive, kept, notice_of and notice_of_node)
            self._directories.note_changed(parent)
        except EntryExists:
            if is_exclusive:
                raise
            node = await self._objects.find(key)  # made meanwhile: as good as ours
        opened = self._opens.opened(node, flags, number=handle)
        if told is not None and told[0].is_sent:
            node.lookup_count += 1
            return told[1:]
        return opened, self._referenced(node)

    async def make_file(
        self, parent: int, name: bytes, creator: Creator | None = None
    ) -> Attributes:
        """mknod(2) of a regular file. One more reference. Raises: EntryExists."""
        key = await self._directories.key_for_change(parent, name)
        kept = self._metadata.of_new(stat.S_IFREG, self._heir(parent, creator))
        node = await self._objects.create(key, is_exclusive=True, kept=kept)
        self._directories.note_changed(parent)
        return self._referenced(node)

    # Directories

    async def list_entry(self, handle: int, index: int) -> ListedEntry | None:
        """The entry of that number; None behind the last. `take_entry` must follow."""
        opened = self._directories.handles[handle]
        while (entry := await opened.listing.entry(index)) is not None:
            is_asked_for = self._view.has_posix or opened.stat_ahead.is_for_most
            is_there = not is_asked_for or await opened.look_ahead.has(entry, index)
            if not is_there or self._directories.has_left(opened, entry):
                index += 1  # removed since it was listed
                continue
            node = self._directories.listed_node(opened, entry, is_asked_for)
            valid_s = 0.0
            if is_asked_for and isinstance(node, FileNode):
                valid_s = self._objects.freshness_s(node, has_looked_up=True)
            return ListedEntry(entry.name, self._attributes(node, valid_s), index + 1)
        return None

    async def bare_names(self, handle: int, index: int) -> Iterator[BareName] | None:
        """Those of the entries from that number on that need no waiting, without inodes; none
        behind the last. To be taken before anything else happens. None: ask by `list_entry`."""
        opened = self._directories.handles[handle]
        if not self._directories.is_bare(opened, index):
            return None
        await opened.listing.entry(index)
        return self._directories.bare_names(opened, index)

    def take_entry(self, entry: ListedEntry, is_taken: bool) -> None:
        """The kernel took a listed entry (one more reference), or had no room for it."""
        node = self._nodes[entry.attributes.ino]
        node.lookup_count += is_taken
        self._nodes.drop_if_unused(node)

    async def release_directory(self, handle: int) -> None:
        await self._directories.handles.pop(handle).listing.aclose()

    async def sync_directory(self, handle: int) -> None:
        """fsync(2) of a directory: every file below it. Raises: the first error."""
        node = self._nodes[self._directories.handles[handle].ino]
        files = self._cache.dirty_files
        if isinstance(node, DirectoryNode):
            files = tuple(file for file in files if node.place.holds(file.key))
        await self._flush_files(files)

    # Extended attributes

    async def get_xattr(self, ino: int, name: bytes) -> bytes:
        return await self._xattrs.get(self._nodes[ino], name)

    async def list_xattrs(self, ino: int) -> list[bytes]:
        return await self._xattrs.names(self._nodes[ino])

    async def set_xattr(
        self,
        ino: int,
        name: bytes,
        value: bytes | None,
        notice: Notice | None = None,
        caller: int = 0,
    ) -> None:
        self._objects.changers.note_change(caller)
        await self._xattrs.set(self._nodes[ino], name, value, notice)

    # The whole

    async def space(self) -> SpaceUsage:
        """Of the pool that is mounted; of the cluster for a root of all pools (pyfuse3 does
        not tell which inode statfs(2) asks of)."""
        root = self._nodes[ROOT_INO]
        pool_id = root.place.pool_id if isinstance(root, DirectoryNode) else None
        return await self._space.measure(pool_id)

    async def flush_all(self) -> None:
        """Store everything. What fails is kept. Raises: the first error."""
        await self._flush_files(self._cache.dirty_files)

    async def spool_unwritten(self) -> None:
        """At the end: put what is not stored into the spool. Nothing is stored after this."""
        await self._cache.spool_unstored()

    def dirty_bytes(self) -> int:
        """Bytes that the store does not have."""
        return self._cache.held_bytes

    def advanced_s(self) -> float:
        """When the store last acknowledged something (`trio.current_time`), but for what it has
        been sent again."""
        return self._cache.advanced_s

    def unwritten(self) -> list[str]:
        """Names of the files that have something unstored."""
        names = [file.key.name for file in self._cache.dirty_files]
        return [name.decode(errors="backslashreplace") for name in names]

    # Inside

    def _remove(self, key: ObjectKey, notice: Notice | None = None) -> Awaitable[None]:
        return self._sequencer.run(key, functools.partial(self._removal.remove, key, notice=notice))

    def _attributes(self, node: Node, valid_s: float = 0.0) -> Attributes:
        nlink = 1 if isinstance(node, FileNode) else self._directories.link_count(node)
        return attributes_of(node, self._view, self._started_ns, nlink, valid_s)

    def _heir(
        self, parent: int, creator: Creator | None, is_directory: bool = False
    ) -> Creator | None:
        if creator is None or not self._view.has_posix:
            return None
        return creator.below(self._attributes(self._nodes[parent]), is_directory)

    async def _set_of_directory(self, node: DirectoryNode, change: AttributeChange) -> None:
        """A pool has no marker: its mode and owner are the mount's, its time is forgotten. Of a
        removed directory, which someone still has open, nothing is kept."""
        if node.is_removed:
            return
        marker = self._directories.marker_of(node)
        if marker is None:
            self._metadata.refuse(self._attributes(node), change)
            return
        await self._pools.check_writable(marker[:2])
        found = await self._metadata.set_of_directory(marker, change)
        known = self._directories.take_marker(node, found)
        if change.mtime_ns is not None:
            known.changed_ns = 0

    def _referenced(self, node: Node) -> Attributes:
        """For a name that was just looked up or made."""
        node.lookup_count += 1
        return self._attributes(node, self._freshness_s(node, has_looked_up=True))

    def _freshness_s(self, node: Node, has_looked_up: bool) -> float:
        if isinstance(node, FileNode):
            return self._objects.freshness_s(node, has_looked_up)
        return DIRECTORY_FRESHNESS_S  # of what this mount changes in it the kernel knows

    async def _truncate(self, node: FileNode, size: int, handle: int | None) -> None:
        file = node.file
        if handle is None:
            await self._objects.revalidate(node)
        else:
            await self._opens.check_unchanged(handle)
        error_count = file.error_count
        self._cache.truncate(file, size)
        if handle is None:
            await self._cache.flush(file)
            if file.error is not None and file.error_count > error_count:
                raise file.error.with_traceback(None)

    async def _flush_files(self, files: Sequence[CachedFile]) -> None:
        error_counts = {file: file.error_count for file in files}
        failures: list[RadosmountError] = []

        async def flush(file: CachedFile) -> None:
            try:
                await self._cache.flush(file)
            except RadosmountError as failure:
                failures.append(failure)

        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(flush, file)
        failures += [
            file.error
            for file, count in error_counts.items()
            if file.error is not None and file.error_count > count
        ]
        if failures:
            raise failures[0].with_traceback(None)  # some are kept, and raised again
