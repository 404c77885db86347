"""The calls on one object, by whichever driver: the part of the store that differs between
the binding with threads (threaded_calls.py) and our compiled module (native/native_calls.py)."""

from collections.abc import Mapping
from typing import Protocol

from radosmount.store.interface import (
    Change,
    Inspection,
    ObjectKey,
    ObjectStat,
    ReadResult,
    Xattrs,
)


class ObjectCalls(Protocol):
    """As the methods of `interface.Store` that have the same names."""

    async def stat(self, key: ObjectKey) -> ObjectStat: ...
    async def stat_or_other(
        self, key: ObjectKey, other: ObjectKey
    ) -> tuple[ObjectStat | None, ObjectStat | None]: ...
    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult: ...
    async def stat_and_read(self, key: ObjectKey, length: int) -> tuple[ObjectStat, ReadResult]: ...
    async def inspect(self, key: ObjectKey, length: int) -> Inspection: ...
    async def get_xattrs(self, key: ObjectKey) -> Xattrs: ...
    async def get_omap(self, key: ObjectKey) -> Mapping[bytes, bytes]: ...
    async def apply(self, key: ObjectKey, change: Change) -> int: ...
    async def probe_read(self, place: ObjectKey) -> None: ...
    async def probe_write(self, place: ObjectKey) -> None: ...

    def fetch_osdmap(self) -> None:
        """Of a handle of its own; blocks for as long as no monitor answers. For a thread."""

    async def aclose(self, timeout_s: float) -> bool:
        """Take no more calls, wait for those there are; False if some still run then."""

    def shut_down(self) -> None:
        """After `aclose` returned True. Blocks a little; for a thread."""
