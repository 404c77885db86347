"""Unlinking, and what becomes of a file that is open meanwhile."""

import contextlib
from typing import Final

from radosmount.cache.file import CachedFile
from radosmount.cache.orphan import Orphan
from radosmount.cache.pagecache import PageCache
from radosmount.cache.ticket import Progress
from radosmount.config import MIB
from radosmount.errors import (
    NoSuchEntry,
    ObjectNotFound,
    StaleFile,
    StoreError,
    VersionConflict,
)
from radosmount.store.interface import (
    AtVersion,
    Change,
    Existence,
    Notice,
    ObjectKey,
    Remove,
    Store,
)
from radosmount.vfs.nodes import FileNode, NodeTable
from radosmount.vfs.objects import Objects
from radosmount.vfs.retries import Retries

COPY_BYTES: Final = 4 * MIB
# Each attempt is beaten only by a foreign write in the few ms between copy and remove.
ATTEMPT_COUNT_MAX: Final = 5


class Removal:
    """Operations of the sequencer: each runs in the turn of the object that it removes."""

    def __init__(
        self,
        store: Store,
        nodes: NodeTable,
        cache: PageCache,
        objects: Objects,
        retries: Retries,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._cache = cache
        self._objects = objects
        self._retries = retries

    async def remove(
        self, key: ObjectKey, progress: Progress, notice: Notice | None = None
    ) -> None:
        """Remove the object; open handles keep the content. Raises: NoSuchEntry.

        `progress` is noted whenever the store has answered; `notice` goes with the removal.
        """
        await self._retries.settle(key)  # who looks it up makes it known here
        node = self._nodes.find_file(key)
        if node is not None and node.file.is_new and not node.file.attempts:
            self.finish(node, Orphan() if node.open_count else None)
            return
        try:
            if node is None:
                await self._remove_object(key, notice)
            else:
                await self._remove_known(node, progress, notice)
        except StoreError as failure:
            self._nodes.note_failure(failure, key)
            raise

    async def copy_before(self, node: FileNode, progress: Progress) -> tuple[Orphan | None, int]:
        """`copy_if_open`, when everybody has opened it who is expected to. To be followed by
        `Retries.leaving` at once."""
        await self._retries.settle(node.file.key)
        orphan, version = await self.copy_if_open(node, progress)
        if orphan is not None:
            await self._retries.settle(node.file.key)
        return orphan, version

    async def copy_if_open(self, node: FileNode, progress: Progress) -> tuple[Orphan | None, int]:
        """The store's bytes of an open file, and their version; None where it is not open."""
        if not node.open_count:
            return None, 0
        return await self._copy(node, progress)

    def finish(self, node: FileNode, orphan: Orphan | None) -> None:
        """The name is gone; whoever has the file open goes on with `orphan`."""
        file = node.file
        node.lost_removal = None
        if orphan is not None:
            file.orphan = orphan
            self._cache.move_to_orphan(file)
        else:
            self._cache.discard(file)
        file.is_unlinked = True
        self._nodes.unlink(node)

    def unlink_gone(self, file: CachedFile) -> bool:
        """In the file's turn, when its object is not there: whether that is by an unlinking whose
        reply was lost. Then the name is gone, as after any."""
        node = self._nodes.find_file(file.key)
        if node is None or node.file is not file or node.lost_removal is None:
            return False
        lost = node.lost_removal
        is_for_all = lost.orphan is not None or not node.open_count  # who opened it since has none
        if lost.base_version != file.base.version or not is_for_all:
            return False
        self.finish(node, lost.orphan if node.open_count else None)
        return True

    async def settle_gone(self, node: FileNode) -> bool:
        """A read met no object: whether it may go on with what was kept.

        Raises: DeadlineExceeded; StoreError.
        """
        with contextlib.suppress(StaleFile):  # unlinked by another read meanwhile
            await self._objects.in_turn(node.file, lambda: self.settle_lost(node))
        return node.file.orphan is not None

    async def settle_lost(self, node: FileNode) -> None:
        """In the file's turn: find out whether an unlinking whose reply was lost has been applied.

        Raises: StoreError.
        """
        if node.lost_removal is not None:
            try:
                await self._store.stat(node.file.key)
            except ObjectNotFound:
                self.unlink_gone(node.file)

    async def _remove_known(
        self, node: FileNode, progress: Progress, notice: Notice | None
    ) -> None:
        file = node.file
        for _ in range(ATTEMPT_COUNT_MAX):
            orphan, version = await self.copy_before(node, progress)
            guard = AtVersion(version) if version else Existence.ANY
            try:
                with self._retries.leaving(file.key):
                    await self._store.apply(file.key, Change((Remove(),), guard, notice=notice))
            except VersionConflict:
                if orphan:
                    orphan.close()
                continue
            except ObjectNotFound as failure:
                if self.unlink_gone(file):
                    return
                self.finish(node, orphan)
                if file.is_new:
                    return  # the reply to its first flush was lost, and so was the request
                raise NoSuchEntry(f"{file.key.name!r}") from failure
            except StoreError as failure:
                if failure.is_outcome_unknown:
                    node.lose_removal(orphan)
                raise
            self.finish(node, orphan)
            return
        raise VersionConflict(f"{file.key.name!r} is being changed again and again")

    async def _remove_object(self, key: ObjectKey, notice: Notice | None) -> None:
        try:
            with self._retries.leaving(key):
                await self._store.apply(key, Change((Remove(),), notice=notice))
        except ObjectNotFound as failure:
            raise NoSuchEntry(f"{key.name!r}") from failure
        node = self._nodes.find_file(key)
        if node is None:
            self._nodes.note(key, False)
        elif node.file.is_clean:  # looked up while the object was there
            self.finish(node, None)

    async def _copy(self, node: FileNode, progress: Progress) -> tuple[Orphan, int]:
        """Copy what of the store's content still counts, all of the version that is known of it:
        the kernel has its size, and may have pages of it."""
        file = node.file
        for _ in range(ATTEMPT_COUNT_MAX):
            orphan = Orphan()
            version = await self._copy_once(file, orphan, progress)
            is_known = version in (0, file.base.version) or not file.is_clean
            if version is not None and is_known:
                return orphan, version
            orphan.close()
            with contextlib.suppress(StaleFile):  # removed by someone else: so the next copy finds
                await self._objects.refresh(node)
        raise VersionConflict(f"{file.key.name!r} is being changed again and again")

    async def _copy_once(self, file: CachedFile, orphan: Orphan, progress: Progress) -> int | None:
        """The version of what was copied, 0 of nothing; None where it changed half way."""
        version = 0
        limit = file.base_limit  # a truncate makes it smaller meanwhile
        for offset in range(0, limit, COPY_BYTES):
            length = min(COPY_BYTES, limit - offset)
            try:
                result = await self._store.read(file.key, offset, length)
            except ObjectNotFound:
                return 0  # removed by someone else; what was read so far is what is left
            if version and result.version != version:
                return None
            version = result.version
            orphan.write(offset, result.data)
            progress.note()
        return version
