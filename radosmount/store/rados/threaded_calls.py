"""The calls on one object through the `rados` binding, on threads (docs/decisions/0001)."""

import contextlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import rados

from radosmount.config import StoreConfig
from radosmount.errors import ObjectNotFound
from radosmount.store.interface import (
    Change,
    Inspection,
    Limits,
    ObjectKey,
    ObjectStat,
    ReadResult,
    Xattrs,
)
from radosmount.store.rados import operations
from radosmount.store.rados.executor import Executor
from radosmount.store.rados.ioctxs import Ioctxs

T = TypeVar("T")


class ThreadedCalls:
    """`ObjectCalls`. The handle is the caller's."""

    def __init__(self, config: StoreConfig, handle: rados.Rados, limits: Limits) -> None:
        self._limits = limits
        self._stat = operations.stat_with_posix if config.has_posix else operations.stat
        self._calls: Executor[Ioctxs] = Executor(
            "rados",
            lambda: Ioctxs(handle),
            config.thread_count,
            config.pool_thread_count_max,
            config.timeout_s,
        )

    async def stat(self, key: ObjectKey) -> ObjectStat:
        return await self._read_call(key, self._stat, key)

    async def stat_or_other(
        self, key: ObjectKey, other: ObjectKey
    ) -> tuple[ObjectStat | None, ObjectStat | None]:
        def call(ioctxs: Ioctxs) -> tuple[ObjectStat | None, ObjectStat | None]:
            with contextlib.suppress(ObjectNotFound):
                return self._stat(ioctxs, key), None
            with contextlib.suppress(ObjectNotFound):
                return None, self._stat(ioctxs, other)
            return None, None

        return await self._calls.call(key.pool_id, call, is_droppable=True)

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        return await self._read_call(key, operations.read, key, offset, length)

    async def stat_and_read(self, key: ObjectKey, length: int) -> tuple[ObjectStat, ReadResult]:
        def call(ioctxs: Ioctxs) -> tuple[ObjectStat, ReadResult]:
            return self._stat(ioctxs, key), operations.read(ioctxs, key, 0, length)

        return await self._calls.call(key.pool_id, call, is_droppable=True)

    async def inspect(self, key: ObjectKey, length: int) -> Inspection:
        return await self._read_call(key, operations.inspect, key, length)

    async def get_xattrs(self, key: ObjectKey) -> Xattrs:
        return await self._read_call(key, operations.get_xattrs, key)

    async def get_omap(self, key: ObjectKey) -> Mapping[bytes, bytes]:
        bytes_max = self._limits.operation_bytes_max
        return await self._read_call(key, operations.get_omap, key, bytes_max)

    async def apply(self, key: ObjectKey, change: Change) -> int:
        def call(ioctxs: Ioctxs) -> int:
            return operations.apply(ioctxs, key, change)

        return await self._calls.call(key.pool_id, call)

    async def probe_read(self, place: ObjectKey) -> None:
        await self._read_call(place, operations.probe_read, place)

    async def probe_write(self, place: ObjectKey) -> None:
        await self._read_call(place, operations.probe_write, place)

    def fetch_osdmap(self) -> None:
        """There is no other handle."""

    async def aclose(self, timeout_s: float) -> bool:
        return await self._calls.aclose(timeout_s)

    def shut_down(self) -> None:
        pass

    async def _read_call(
        self, key: ObjectKey, operation: Callable[..., T], *arguments: object
    ) -> T:
        return await self._calls.call(
            key.pool_id, lambda ioctxs: operation(ioctxs, *arguments), is_droppable=True
        )
