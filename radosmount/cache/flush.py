"""Storing one file's changes: the operations of a flush, their order, and what a refusal means.

Runs only as an operation of the sequencer, so never twice at once for one object. The file's
state is in the file.
"""

import contextlib
import hashlib
from collections.abc import Callable
from typing import Final

import trio

from radosmount import switching
from radosmount.cache.budget import Budget
from radosmount.cache.changes import Attempt, Flight, PartlyStored
from radosmount.cache.file import CachedFile
from radosmount.cache.kept import KeptContents
from radosmount.cache.plan import Plan, gives_xattrs, plan_flush
from radosmount.cache.room import Room
from radosmount.cache.stalls import Stalls
from radosmount.config import CacheConfig
from radosmount.errors import (
    ObjectExists,
    ObjectGone,
    ObjectNotFound,
    StoreError,
    VersionConflict,
)
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Notice,
    ObjectKey,
    ObjectStat,
    ReadResult,
    Store,
    Write,
    WriteFull,
    clamped_mtime_s,
)

# Appenders on several mounts refuse each other, and each round lets one of them through.
APPEND_ATTEMPT_COUNT_MAX: Final = 100
PARALLEL_OPERATION_COUNT_MAX: Final = 4

_WRITING_STEPS: Final = (Write, WriteFull)


class FlushFailed(Exception):
    """A flush was not stored, or not all of it. `begun`: what its first operation made of the
    object, where that one was stored."""

    def __init__(self, cause: StoreError, begun: PartlyStored | None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.begun = begun


class Flusher:
    """`in_flight` bounds the bytes that the operations of all files carry together; `stalls` is
    told of them. `progress(file)` is called at every acknowledgement."""

    def __init__(
        self,
        store: Store,
        config: CacheConfig,
        in_flight: Budget,
        stalls: Stalls,
        progress: Callable[[CachedFile], None],
    ) -> None:
        self._store = store
        self._config = config
        self._in_flight = in_flight
        self._stalls = stalls
        self._room = Room(store, in_flight, stalls)
        self._progress = progress
        self._kept = KeptContents()

    async def store_flight(self, file: CachedFile, notice: Notice | None = None) -> int:
        """Store all of the flight that has begun; return the object's version after it. `notice`
        goes with it where it is one operation.

        Raises: FlushFailed.
        """
        try:
            plan, version = await self._store_first(file, notice)
        except StoreError as failure:
            raise FlushFailed(failure, None) from failure
        if plan.is_one:  # most files
            self._learn(file, plan, version)
            return version
        return await self._store_rest(file, plan, version)

    def attempt_of(self, flight: Flight) -> Attempt:
        """How the object looks once the first operation of `flight` is applied, or more are.

        No append where there are more: what follows the first may be ours, or someone else's.
        """
        plan = self._plan(flight)
        return _attempt(plan.first, plan, flight, flight.is_append and plan.is_one)

    async def _store_first(self, file: CachedFile, notice: Notice | None) -> tuple[Plan, int]:
        """The guarded operation; a refusal is looked into before it counts as a conflict."""
        for _ in range(APPEND_ATTEMPT_COUNT_MAX):
            try:
                if file.has_many_attempts:
                    await self._outdate_attempts(file)
                return await self._send_first(file, notice)
            except (ObjectExists, ObjectNotFound, VersionConflict) as refusal:
                if not await self._rebase(file):
                    text = f"{file.key.name!r}: another client has changed it since it was opened"
                    raise VersionConflict(text) from refusal
        raise VersionConflict(f"{file.key.name!r}: others append without end")

    async def _send_first(self, file: CachedFile, notice: Notice | None) -> tuple[Plan, int]:
        flight = file.current_flight
        plan = self._plan(flight, notice)
        try:
            return plan, await self._apply(file, plan.first)
        except StoreError as failure:
            if failure.is_outcome_unknown:
                file.remember_attempt(_attempt(plan.first, plan, flight, flight.is_append))
            raise

    async def _outdate_attempts(self, file: CachedFile) -> None:
        """Before more is sent: make sure that nothing of what was lost is applied any more.

        A new file asserts that there is no object, and none must be seen before its content. There
        an answer is enough: an OSD does in order what one client asks of an object that is not.
        Raises: ObjectExists, VersionConflict where one may have been applied; StoreError.
        """
        guard = self._plan(file.current_flight).first.guard
        if guard is Existence.ABSENT:
            await self._expect_absent(file.key)
            file.attempts.clear()
        elif isinstance(guard, AtVersion):
            await self._change_version(file, guard)

    async def _change_version(self, file: CachedFile, guard: AtVersion) -> None:
        """By a change of nothing else, behind which others are refused. Being always the same, it
        is one attempt, however often it is lost itself."""
        base = file.current_flight.base
        try:
            version = await self._apply(file, Change((Create(),), guard, base.mtime_s))
        except StoreError as failure:
            if failure.is_outcome_unknown:
                size_min = base.size_min if isinstance(base, PartlyStored) else base.size
                file.remember_attempt(Attempt(size_min, base.size, base.mtime_s, False, ()))
            raise
        file.outdate_attempts(version)

    async def _expect_absent(self, key: ObjectKey) -> None:
        """Raises: ObjectExists."""
        with contextlib.suppress(ObjectNotFound):
            await self._store.stat(key)
            raise ObjectExists(f"{key.name!r}")

    def _plan(self, flight: Flight, notice: Notice | None = None) -> Plan:
        config, limits = self._config, self._store.limits
        return plan_flush(flight, config.atomic_max_bytes, limits, config.conflict, notice)

    async def _rebase(self, file: CachedFile) -> bool:
        """Put a refused flight upon the object as it is now, where that overwrites nobody.

        After an unknown outcome a refused guard means either that our own write came through
        late, or that someone else was there: size, mtime and bytes tell them apart.
        Raises: ObjectGone.
        """
        try:
            stat = await self._store.stat(file.key)
            attempt = await self._applied_attempt(file, stat)
        except ObjectNotFound as failure:
            raise ObjectGone(f"{file.key.name!r} was removed since it was opened") from failure
        except VersionConflict:
            return True  # the next try is refused too, and looked into again
        if file.can_move_appended:
            start = None
            if attempt is not None and attempt.is_append:
                start = attempt.size_min
            elif attempt is not None and stat.size == file.current_flight.base.size:
                start = stat.size  # it has changed xattrs or times
            file.move_appended(stat, start)
            return True
        if attempt is None or not attempt.size_min <= stat.size <= attempt.size_max:
            return False
        file.adopt(stat)
        return True

    async def _applied_attempt(self, file: CachedFile, stat: ObjectStat) -> Attempt | None:
        """The one that the object, at `stat`, shows to be applied."""
        for attempt in reversed(file.attempts):
            may_be_longer = attempt.is_append and file.can_move_appended
            is_alike = (
                attempt.size_min <= stat.size <= attempt.size_max
                and clamped_mtime_s(attempt.mtime_s) == stat.mtime_s
            )
            is_candidate = is_alike or (may_be_longer and attempt.size_min <= stat.size)
            if is_candidate and await self._holds(file.key, attempt, stat.version):
                return attempt
        return None

    async def _holds(self, key: ObjectKey, attempt: Attempt, version: int) -> bool:
        for offset, length, digest in attempt.pieces:
            result = await self._store.read(key, offset, length)
            if result.version != version:
                raise VersionConflict(f"{key.name!r} changed while it was looked at")
            if _digest(result.data) != digest:
                return False
        return True

    async def _store_rest(self, file: CachedFile, plan: Plan, version: int) -> int:
        """The other operations, several at a time; they do not overlap.

        Raises: FlushFailed.
        """
        rest = plan.rest
        versions = [version]
        failures: list[StoreError] = []
        flight = file.current_flight

        async def work() -> None:
            for change in rest:
                if failures:
                    return
                try:
                    versions.append(await self._apply(file, change))
                except StoreError as failure:
                    failures.append(failure)
                    if failure.is_outcome_unknown:
                        file.remember_attempt(_attempt(change, plan, flight, is_append=False))

        async with trio.open_nursery() as nursery:
            for _ in range(PARALLEL_OPERATION_COUNT_MAX):
                nursery.start_soon(work)
        if failures:
            mtime_s = plan.begun.mtime_s
            begun = PartlyStored(flight.size, mtime_s, max(versions), plan.size_min)
            raise FlushFailed(failures[0], begun) from failures[0]
        return max(versions)

    def _learn(self, file: CachedFile, plan: Plan, version: int) -> None:
        """One operation was all, and was acknowledged: what the object is at `version`."""
        change, guard = plan.first, plan.first.guard
        was_bare = guard is Existence.ABSENT or (
            isinstance(guard, AtVersion) and guard.version == file.bare_version
        )
        is_bare = was_bare and not gives_xattrs(change.steps)
        file.bare_version = version if is_bare else 0
        if plan.content is not None and not file.needs_flush:
            self._kept.keep(file, ReadResult(plan.content, version))

    async def _apply(self, file: CachedFile, change: Change) -> int:
        byte_count = 0
        for step in change.steps:
            if isinstance(step, _WRITING_STEPS):
                byte_count += len(step.data)
        if not self._room.try_take(file, byte_count):
            await self._room.take(file, byte_count)
        self._stalls.asked(file, switching.current_time())
        is_stored = False
        try:
            version = await self._store.apply(file.key, change)
            is_stored = True
        finally:
            self._stalls.answered(file, switching.current_time(), is_stored)
            self._in_flight.release(byte_count)
        self._progress(file)
        return version


def _attempt(change: Change, plan: Plan, flight: Flight, is_append: bool) -> Attempt:
    pieces = tuple(
        (step.offset if isinstance(step, Write) else 0, len(step.data), _digest(step.data))
        for step in change.steps
        if isinstance(step, _WRITING_STEPS) and step.data
    )
    return Attempt(plan.size_min, flight.size, plan.begun.mtime_s, is_append, pieces)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
