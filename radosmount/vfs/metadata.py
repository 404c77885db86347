"""Modes, owners and times: what setattr(2)'s family changes beside the size.

Without `posix` only the mtime is an object's own; modes and owners are the mount's, and a request
for others is refused or forgotten. With it they are kept in one xattr (store/posix.py), which goes
out with the bytes where there are any to store. A directory's are those of its marker.
"""

import logging
import stat
import time
from dataclasses import dataclass, replace
from typing import Final

from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.cache.sequencer import Sequencer
from radosmount.config import ViewConfig
from radosmount.errors import (
    NotPermitted,
    ObjectExists,
    ObjectNotFound,
    StaleFile,
    VersionConflict,
)
from radosmount.store import posix
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Guard,
    ObjectKey,
    ObjectStat,
    SetXattr,
    Step,
    Store,
)
from radosmount.store.posix import NS_PER_S, Posix
from radosmount.vfs.attributes import AttributeChange, Attributes
from radosmount.vfs.nodes import FileNode
from radosmount.vfs.objects import Objects

log = logging.getLogger(__name__)

ATTEMPT_COUNT_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Creator:
    """Who makes something, and with what mode (no type bits; umask(2) is off already)."""

    mode: int
    uid: int
    gid: int

    def below(self, above: Attributes, is_directory: bool) -> "Creator":
        """What is made in a directory with the set-group-ID bit has its group (inode(7))."""
        if not above.mode & stat.S_ISGID:
            return self
        mode = self.mode | (stat.S_ISGID if is_directory else 0)
        return Creator(mode, self.uid, above.gid)


class Metadata:
    def __init__(
        self,
        store: Store,
        view: ViewConfig,
        objects: Objects,
        cache: PageCache,
        sequencer: Sequencer,
    ) -> None:
        self._store = store
        self._view = view
        self._objects = objects
        self._cache = cache
        self._sequencer = sequencer
        self._has_warned = False

    def is_kept(self, change: AttributeChange) -> bool:
        """Whether anything of it goes to the store, beside a size."""
        return change.mtime_ns is not None or (self._view.has_posix and change.has_owner_or_mode)

    def check(self, now: Attributes, change: AttributeChange) -> None:
        """Raises: NotPermitted for modes and owners that are not kept, with `strict_modes`."""
        if not self._view.has_posix:
            self.refuse(now, change)

    def refuse(self, now: Attributes, change: AttributeChange) -> None:
        """Modes and owners are the mount's: what asks for others has no effect, or
        (`strict_modes`) fails. Raises: NotPermitted."""
        wanted = (change.mode, change.uid, change.gid)
        given = (now.mode & 0o7777, now.uid, now.gid)
        if all(want in (None, have) for want, have in zip(wanted, given, strict=True)):
            return
        if self._view.has_strict_modes:
            raise NotPermitted("modes and owners are the mount's (strict_modes)")
        if not self._has_warned:
            self._has_warned = True
            log.warning("chmod and chown have no effect: modes and owners are the mount's")

    def of_new(self, type_bits: int, creator: Creator | None, target: bytes | None = None) -> Posix:
        """What is kept of something that `creator` makes now."""
        if creator is None or not self._view.has_posix:
            return posix.NONE
        mode = type_bits | creator.mode
        return Posix(mode, creator.uid, creator.gid, time.time_ns(), target)

    async def set_of_file(self, node: FileNode, change: AttributeChange) -> None:
        """With the next flush where there will be one; else now, as an operation of its own.

        Raises: StaleFile; StoreError.
        """
        file = node.file
        if file.orphan is not None:
            file.base = self._changed_base(file, change)
        elif not file.is_clean:
            self._stage(file, change)
        else:
            await self._objects.in_turn(file, lambda: self._store_of_file(node, change))

    async def set_of_directory(self, marker: ObjectKey, change: AttributeChange) -> ObjectStat:
        """The marker is made where there is none. Return what it is then. Raises: StoreError."""
        return await self._sequencer.run(marker, lambda _: self._store_of_marker(marker, change))

    def clear_setuid(self, file: CachedFile) -> None:
        """As a write by another than root does (inode(7)); stored with what it has written."""
        mode = file.posix.mode
        if mode is None or not self._view.has_posix or file.orphan is not None:
            return
        is_group_run = mode & stat.S_ISGID and mode & stat.S_IXGRP
        cleared = mode & ~(stat.S_ISUID | (stat.S_ISGID if is_group_run else 0))
        if cleared != mode:
            self._cache.stage_posix(file, replace(file.posix, mode=cleared))

    def _stage(self, file: CachedFile, change: AttributeChange) -> None:
        if change.mtime_ns is not None:
            self._cache.set_mtime(file, change.mtime_ns)
        if self._view.has_posix and change.has_owner_or_mode:
            self._cache.stage_posix(file, _changed(file.posix, change, stat.S_IFREG))

    async def _store_of_file(self, node: FileNode, change: AttributeChange) -> None:
        """An operation of the sequencer. Who else changes the object meanwhile is not undone: what
        is kept is composed anew of what they have made of it."""
        file = node.file
        for attempt in range(ATTEMPT_COUNT_MAX):
            if not file.is_clean:
                self._stage(file, change)
                return
            if self._view.has_posix and (not file.base.version or file.is_suspect):
                await self._objects.revalidate(node)
            is_last = attempt == ATTEMPT_COUNT_MAX - 1 or not self._view.has_posix
            steps = self._steps(file.posix, change, stat.S_IFREG)
            mtime_s = _mtime_s(change)
            try:
                await self._objects.change_beside(file, steps, mtime_s, must_match=not is_last)
            except VersionConflict:
                continue
            except ObjectNotFound as failure:
                node.note_gone()
                raise StaleFile(f"{file.key.name!r} was removed") from failure
            return

    def _changed_base(self, file: CachedFile, change: AttributeChange) -> ObjectStat:
        """Of an unlinked file, which only those see who have it open."""
        mtime_s = _mtime_s(change)
        return replace(
            file.base,
            mtime_s=file.base.mtime_s if mtime_s is None else mtime_s,
            posix=_changed(file.posix, change, stat.S_IFREG) if self._view.has_posix else None,
        )

    async def _store_of_marker(self, marker: ObjectKey, change: AttributeChange) -> ObjectStat:
        for _ in range(ATTEMPT_COUNT_MAX):
            try:
                found = await self._store.stat(marker)
            except ObjectNotFound:
                found = ObjectStat(0, int(time.time()), 0)
            guard: Guard = AtVersion(found.version) if found.version else Existence.ABSENT
            known = found.posix or posix.NONE
            mtime_s = _mtime_s(change)
            if mtime_s is None and not found.version:
                mtime_s = found.mtime_s
            steps = (Create(), *self._steps(known, change, stat.S_IFDIR))
            try:
                version = await self._store.apply(marker, Change(steps, guard, mtime_s))
            except (VersionConflict, ObjectExists):
                continue
            now_s = found.mtime_s if mtime_s is None else mtime_s
            kept = _changed(known, change, stat.S_IFDIR) if self._view.has_posix else None
            return ObjectStat(found.size, now_s, version, posix=kept)
        raise VersionConflict(f"{marker.name!r} is being changed again and again")

    def _steps(self, known: Posix, change: AttributeChange, type_bits: int) -> tuple[Step, ...]:
        if self._view.has_posix:
            wanted = _changed(known, change, type_bits)
            return (SetXattr(posix.XATTR, posix.encode(wanted)),)
        return (Create(),)  # for the mtime that comes with it


def _changed(known: Posix, change: AttributeChange, type_bits: int) -> Posix:
    """`type_bits`: what it is, where that is not kept yet."""
    if known.mode is not None:
        type_bits = stat.S_IFMT(known.mode)
    return replace(
        known,
        mode=known.mode if change.mode is None else type_bits | change.mode,
        uid=known.uid if change.uid is None else change.uid,
        gid=known.gid if change.gid is None else change.gid,
        mtime_ns=known.mtime_ns if change.mtime_ns is None else change.mtime_ns,
    )


def _mtime_s(change: AttributeChange) -> int | None:
    return None if change.mtime_ns is None else change.mtime_ns // NS_PER_S
