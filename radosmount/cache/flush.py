"""Storing one file's changes: the operations of a flush, their order, and what a refusal means.

Runs only as an operation of the sequencer, so never twice at once for one object. Holds no
state of its own: the file's is in the file.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import trio

from radosmount.cache.budget import Budget
from radosmount.cache.file import CachedFile, Flight
from radosmount.cache.plan import Plan, plan_flush
from radosmount.config import CacheConfig
from radosmount.errors import ObjectExists, ObjectNotFound, StoreError, VersionConflict
from radosmount.store.interface import Change, ObjectKey, ObjectStat, Store, Write, WriteFull

# Appenders on several mounts refuse each other, and each round lets one of them through.
APPEND_ATTEMPT_COUNT_MAX: Final = 100
PARALLEL_OPERATION_COUNT_MAX: Final = 4


class FlushFailed(Exception):
    """A flush was not stored, or not all of it. `begun`: what its first operation made of the
    object, where that one was stored."""

    def __init__(self, cause: StoreError, begun: ObjectStat | None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.begun = begun


class Flusher:
    """`in_flight` bounds the bytes that the operations of all files carry together.
    `progress(file)` is called at every acknowledgement."""

    def __init__(
        self,
        store: Store,
        config: CacheConfig,
        in_flight: Budget,
        progress: Callable[[CachedFile], None],
    ) -> None:
        self._store = store
        self._config = config
        self._in_flight = in_flight
        self._progress = progress

    async def store_flight(self, file: CachedFile, flight: Flight) -> int:
        """Store all of `flight`; return the object's version after it.

        Raises: FlushFailed.
        """
        try:
            plan, version = await self._store_first(file, flight)
        except StoreError as failure:
            raise FlushFailed(failure, None) from failure
        try:
            return await self._store_rest(file, plan.rest, version)
        except StoreError as failure:
            begun = replace(plan.begun, version=version)
            raise FlushFailed(failure, begun) from failure

    async def _store_first(self, file: CachedFile, flight: Flight) -> tuple[Plan, int]:
        """The guarded operation; a refusal is looked into before it counts as a conflict."""
        for _ in range(APPEND_ATTEMPT_COUNT_MAX):
            plan = self._plan(flight)
            try:
                return plan, await self._apply(file, plan.first)
            except (ObjectExists, ObjectNotFound, VersionConflict) as refusal:
                if file.is_outcome_unknown:
                    version = await self._version_if_stored(file.key, plan, flight)
                    if version:
                        return plan, version
                if not file.can_move_appended:
                    raise VersionConflict(f"{file.key.name!r}: {refusal}") from refusal
                file.move_appended(await self._store.stat(file.key))
                flight = file.current_flight
        raise VersionConflict(f"{file.key.name!r}: others append without end")

    def _plan(self, flight: Flight) -> Plan:
        config = self._config
        return plan_flush(flight, config.atomic_max_bytes, self._store.limits, config.conflict)

    async def _store_rest(self, file: CachedFile, rest: Iterator[Change], version: int) -> int:
        """The other operations, several at a time; they do not overlap."""
        versions = [version]
        failures: list[StoreError] = []

        async def work() -> None:
            for change in rest:
                if failures:
                    return
                try:
                    versions.append(await self._apply(file, change))
                except StoreError as failure:
                    failures.append(failure)

        async with trio.open_nursery() as nursery:
            for _ in range(PARALLEL_OPERATION_COUNT_MAX):
                nursery.start_soon(work)
        if failures:
            raise failures[0]
        return max(versions)

    async def _apply(self, file: CachedFile, change: Change) -> int:
        byte_count = sum(
            len(step.data) for step in change.steps if isinstance(step, Write | WriteFull)
        )
        await self._in_flight.reserve(byte_count)
        try:
            version = await self._store.apply(file.key, change)
        finally:
            self._in_flight.release(byte_count)
        self._progress(file)
        return version

    async def _version_if_stored(self, key: ObjectKey, plan: Plan, flight: Flight) -> int:
        """The version at which the object holds what `plan.first` writes; 0 where it does not.

        After an unknown outcome a refused guard means either that our own write came through
        late, or that someone else was there: the bytes and the size tell them apart.
        """
        try:
            stat = await self._store.stat(key)
            is_ours = plan.begun.size <= stat.size <= flight.size
            if is_ours and await self._holds(key, plan.first):
                return stat.version
        except ObjectNotFound:
            pass  # removed by someone else: not stored
        return 0

    async def _holds(self, key: ObjectKey, change: Change) -> bool:
        for step in change.steps:
            if isinstance(step, Write | WriteFull) and step.data:
                offset = step.offset if isinstance(step, Write) else 0
                result = await self._store.read(key, offset, len(step.data))
                if result.data != step.data:
                    return False
        return True
