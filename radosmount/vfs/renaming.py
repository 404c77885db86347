"""Renaming a file. RADOS cannot: the object is copied, and its source removed last.

After a crash at any moment one or both names exist, whole, never neither. What fits into one
operation replaces the target atomically: content, xattrs, omap and mtime. A rename has the turns of
both objects.

What this mount has just made, written and flushed need not be read: its content is kept for a
while (`cache/kept.py`), and so is the knowledge that it has no xattrs and no omap. In every case
the source is removed at the version that was copied, or else copied again.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from radosmount import switching
from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.cache.sequencer import Sequencer
from radosmount.cache.ticket import Progress
from radosmount.config import MIB
from radosmount.errors import (
    EntryExists,
    NoSuchEntry,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    VersionConflict,
)
from radosmount.store import posix
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Notice,
    ObjectKey,
    ObjectStat,
    Remove,
    SetOmap,
    SetXattr,
    Step,
    Store,
    Write,
    WriteFull,
)
from radosmount.vfs.nodes import FileNode, NodeTable
from radosmount.vfs.removal import ATTEMPT_COUNT_MAX, Removal
from radosmount.vfs.retries import Retries

PIECE_BYTES: Final = 32 * MIB
# How much of an object of unknown size is read along with its attributes.
HEAD_BYTES: Final = MIB
# How lately the store must have said that the source is still what we know: as the look-up has
# that comes with the same rename(2), or a flush just now. Whoever changes it after that is found
# out by its removal; but by then the target is replaced.
KNOWN_FRESHNESS_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Source:
    """An object at one version, with the first bytes of its content."""

    stat: ObjectStat
    steps: tuple[Step, ...]  # that give another object its xattrs and omap
    head: bytes


def _known_source(file: CachedFile) -> _Source | None:
    """Without asking: where it is our own work, and all of it is at hand."""
    content = file.known_content
    is_fresh = switching.current_time() - file.heard_s < KNOWN_FRESHNESS_S
    if content is None or not file.is_known_bare or not is_fresh:
        return None
    kept = file.base.posix
    steps = () if kept is None else (SetXattr(posix.XATTR, posix.encode(kept)),)
    return _Source(file.base, steps, content.data)


class Renaming:
    def __init__(
        self,
        store: Store,
        nodes: NodeTable,
        cache: PageCache,
        sequencer: Sequencer,
        removal: Removal,
        retries: Retries,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._cache = cache
        self._sequencer = sequencer
        self._removal = removal
        self._retries = retries

    async def rename(
        self, old: ObjectKey, new: ObjectKey, may_replace: bool, notice: Notice | None = None
    ) -> None:
        """Two different objects of one place. `notice` goes with the removal of the source.

        Raises: NoSuchEntry; EntryExists where the target must not be replaced; VersionConflict
        where others change both objects all the time; DeadlineExceeded; StoreError.
        """

        async def rename(progress: Progress) -> None:
            await self._rename(old, new, may_replace, progress, notice)

        await self._sequencer.run_in_both(old, new, rename)

    async def _rename(
        self,
        old: ObjectKey,
        new: ObjectKey,
        may_replace: bool,
        progress: Progress,
        notice: Notice | None,
    ) -> None:
        node = await self._settled(old)
        target = self._nodes.find_file(new)
        if not may_replace and target is not None and target.file.is_new:
            raise EntryExists(f"{new.name!r}")
        if node is not None and not node.file.is_clean:
            await self._cache.flush_in_turn(node.file)
        progress.note()
        await self._retries.settle(new)  # who looks it up makes it known here
        orphan = None
        target = await self._settled(new)
        if target is not None:
            orphan, _ = await self._removal.copy_before(target, progress)
        file = node.file if node is not None else None
        known = _known_source(file) if file is not None else None
        reads_wait = contextlib.nullcontext() if target is None else target.replacing()

        is_replaced = False

        def note_replaced() -> None:
            nonlocal is_replaced
            is_replaced = True

        with self._retries.leaving(new), reads_wait:
            try:
                source, version = await self._move(
                    old, new, file, known, may_replace, progress, note_replaced, notice
                )
            except StoreError as failure:
                self._nodes.note_failure(failure, old, new)
                raise
            finally:  # whatever became of the source
                if target is not None and is_replaced:
                    self._removal.finish(target, orphan)
        if node is not None:
            self._take_name(node, new, source, version)
        else:
            self._nodes.note(old, False)

    async def _settled(self, key: ObjectKey) -> FileNode | None:
        """In its turn: the file of that name, unless an unlinking whose reply was lost has removed
        it. Raises: StoreError."""
        node = self._nodes.find_file(key)
        if node is not None:
            await self._removal.settle_lost(node)
        return self._nodes.find_file(key)

    def _take_name(self, node: FileNode, key: ObjectKey, source: ObjectStat, version: int) -> None:
        """What the handles have written meanwhile stays dirty, upon the moved object. Who looked
        the name up while the object was there already has another inode of it; what is truncated
        by that is stored by the name."""
        late = self._nodes.find_file(key)
        if late is not None and late.is_only_read:
            self._removal.finish(late, None)
        elif late is not None:
            self._nodes.unlink(late)
        self._nodes.rename(node, key)
        node.file.take_base(source, version)

    async def _move(
        self,
        old: ObjectKey,
        new: ObjectKey,
        file: CachedFile | None,
        known: _Source | None,
        may_replace: bool,
        progress: Progress,
        note_replaced: Callable[[], None],
        notice: Notice | None,
    ) -> tuple[ObjectStat, int]:
        """Return what the source was, and the version of what it became. `note_replaced` is called
        once the target is no more, though the removal of the source may fail after it.

        Copy and remove the source; begin again where someone changes either meanwhile, or has
        changed what is `known`."""
        source = known
        for _ in range(ATTEMPT_COUNT_MAX):
            try:
                source = source or await self._inspect(old, file)
                version = await self._copy(old, new, source, may_replace, progress)
                may_replace = True  # what stands there from here on is our own copy
                note_replaced()
                self._nodes.note(new, True)
                guard = AtVersion(source.stat.version)  # nothing waits behind this
                removing = Change((Remove(),), guard, notice=notice)
                await self._store.apply(old, removing)
            except VersionConflict:
                source = None
                continue
            return source.stat, version
        raise VersionConflict(f"{old.name!r} is being changed again and again")

    async def _inspect(self, key: ObjectKey, file: CachedFile | None) -> _Source:
        """Removing the source will find out if a long omap changed meanwhile."""
        content = file.known_content if file is not None else None
        try:
            found = await self._store.inspect(key, 0 if content else self._head_bytes(file))
            entries = await self._store.get_omap(key) if found.has_more_omap else found.omap
        except ObjectNotFound as failure:
            raise NoSuchEntry(f"{key.name!r}") from failure
        steps: list[Step] = [SetXattr(name, value) for name, value in found.xattrs.items()]
        steps += [SetOmap(entries)] if entries else []
        is_current = content is not None and content.version == found.stat.version
        head = content.data if content is not None and is_current else found.head
        return _Source(found.stat, tuple(steps), head)

    def _head_bytes(self, file: CachedFile | None) -> int:
        is_known = file is not None and file.base.version
        byte_count = file.base.size if file is not None and is_known else HEAD_BYTES
        is_one_piece = byte_count <= self._store.limits.operation_bytes_max
        return byte_count if is_one_piece else PIECE_BYTES

    async def _copy(
        self,
        old: ObjectKey,
        new: ObjectKey,
        source: _Source,
        may_replace: bool,
        progress: Progress,
    ) -> int:
        """Make `new` what `old` is; return its version."""
        size, limit = source.stat.size, self._store.limits.operation_bytes_max
        first = source.head
        if len(first) < min(size, PIECE_BYTES) or len(first) < size <= limit:
            first = await self._read(old, source, 0, size if size <= limit else PIECE_BYTES)
        progress.note()
        version = await self._replace(new, (WriteFull(first), *source.steps), source, may_replace)
        progress.note()
        for offset in range(len(first), size, PIECE_BYTES):
            data = await self._read(old, source, offset, PIECE_BYTES)
            change = Change((Write(offset, data),), AtVersion(version), source.stat.mtime_s)
            version = await self._store.apply(new, change)
            progress.note()
        return version

    async def _read(self, key: ObjectKey, source: _Source, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        result = await self._store.read(key, offset, length)
        if result.version != source.stat.version:
            raise VersionConflict(f"{key.name!r}")
        return result.data

    async def _replace(
        self, key: ObjectKey, steps: tuple[Step, ...], source: _Source, may_replace: bool
    ) -> int:
        """One operation, whether the target exists or not; what we know of tells which first. What
        could not be made, since something stands there by now, is replaced: it may be our own."""
        replacing = Change((Remove(), *steps), mtime_s=source.stat.mtime_s)
        making = Change((Create(), *steps), Existence.ABSENT, source.stat.mtime_s)
        if not may_replace:
            try:
                return await self._store.apply(key, making)
            except ObjectExists as refusal:
                raise EntryExists(f"{key.name!r}") from refusal
        is_known = self._nodes.find_file(key) is not None
        for change in (replacing, making, replacing) if is_known else (making, replacing):
            try:
                return await self._apply_surely(key, change)
            except (ObjectExists, ObjectNotFound):
                continue  # it is the other way
        raise VersionConflict(f"{key.name!r}")

    async def _apply_surely(self, key: ObjectKey, change: Change) -> int:
        """Once more where the reply is lost: done twice it comes to the same, and of a target with
        unstored bytes it must be known whether it is still there."""
        try:
            return await self._store.apply(key, change)
        except StoreError as failure:
            if not failure.is_outcome_unknown:
                raise
        return await self._store.apply(key, change)
