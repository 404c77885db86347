"""A store in a dict, for tests: the contract of store/rados/, without a cluster.

tests/contract keeps it honest. Each call has a checkpoint before it takes effect, then is
atomic. Beyond the contract a test can

- hold calls back: `with store.paused():`, or a `delay` that each call awaits,
- let calls fail: `store.fail_next(TimedOut("lost"), applied=True)` is a lost reply,
- change objects as a foreign client would, at once: `put_now`, `remove_now`, `read_now`,
- look at `changes`: every change applied through `apply`, in order.
"""

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import trio

from radosmount import errors
from radosmount.store import posix
from radosmount.store.interface import (
    Change,
    Inspection,
    Limits,
    ListedObject,
    ObjectKey,
    ObjectStat,
    Pool,
    PoolUsage,
    ReadResult,
    Remove,
    Usage,
    WriteFull,
    Xattrs,
)
from radosmount.store.memory_object import MemoryObject, changed

_MIB: Final = 1 << 20
BATCH_COUNT: Final = 1000
_OMAP_PAGE_COUNT: Final = 1024
_NAME_BYTES_MAX: Final = 2048
_TOTAL_BYTES: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Call:
    """One call as `fail_next` sees it: the method's name, on which object, with what."""

    method: str
    key: ObjectKey | None = None
    change: Change | None = None


@dataclass(slots=True)
class _Failure:
    error: Exception
    matches: Callable[[Call], bool]
    skip_count: int
    is_applied: bool


@dataclass(slots=True)
class _PoolState:
    pool: Pool
    is_readable: bool = True
    is_writable: bool = True
    quota_bytes: int = 0
    quota_objects: int = 0
    write_count: int = 0


class MemoryStore:
    """`interface.Store` in memory. The pool `pool_id` 1, `assets`, is there from the start."""

    def __init__(
        self,
        limits: Limits | None = None,
        pools: tuple[bytes, ...] = (b"assets",),
        has_posix: bool = False,
    ) -> None:
        self.cluster_id = "memory"
        self._has_posix = has_posix
        self.changes: list[tuple[ObjectKey, Change]] = []
        self.delay: Callable[[Call], Awaitable[None]] | None = None
        self.is_full = False
        self.limits = limits or Limits(128 * _MIB, 90 * _MIB)
        self._objects: dict[ObjectKey, MemoryObject] = {}
        self._pools: dict[int, _PoolState] = {}
        self._shown_pools: tuple[Pool, ...] = ()  # what `pools` returned last
        self._next_pool_id = 1
        self._version = 0
        self._failures: list[_Failure] = []
        self._resumed: trio.Event | None = None  # not None: calls wait for it
        self._abandoned: list[Call] = []  # cancelled while held back
        self._is_closed = False
        for name in pools:
            self.add_pool(name)

    # --- What tests do to it. All at once, without a checkpoint.

    def add_pool(self, name: bytes, applications: frozenset[str] = frozenset({"rados"})) -> int:
        pool_id = self._next_pool_id
        self._next_pool_id += 1
        self._pools[pool_id] = _PoolState(Pool(pool_id, name, applications))
        return pool_id

    def set_applications(self, pool_id: int, applications: frozenset[str]) -> None:
        state = self._pools[pool_id]
        state.pool = replace(state.pool, applications=applications)

    def remove_pool(self, pool_id: int) -> None:
        del self._pools[pool_id]
        self._objects = {key: value for key, value in self._objects.items() if key[0] != pool_id}

    def set_caps(self, pool_id: int, *, is_readable: bool, is_writable: bool) -> None:
        state = self._pools[pool_id]
        state.is_readable, state.is_writable = is_readable, is_writable

    def set_quota(self, pool_id: int, quota_bytes: int = 0, quota_objects: int = 0) -> None:
        """Takes effect at once, where a cluster takes seconds. 0 is none."""
        state = self._pools[pool_id]
        state.quota_bytes, state.quota_objects = quota_bytes, quota_objects

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Calls that begin inside are held back until the end of the block."""
        assert self._resumed is None, "already paused"
        resumed = self._resumed = trio.Event()
        try:
            yield
        finally:
            self._resumed = None
            abandoned, self._abandoned = self._abandoned, []
            for call in abandoned:
                self._apply_unheard(call)
            resumed.set()

    def fail_next(
        self,
        error: Exception,
        matches: Callable[[Call], bool] = lambda call: True,
        *,
        skip_count: int = 0,
        applied: bool = False,
    ) -> None:
        """Let one matching call fail, after `skip_count` others that match.

        `applied`: it takes effect all the same, and only the reply is lost. An `error` that is no
        StoreError is what a bug of the store would be.
        """
        self._failures.append(_Failure(error, matches, skip_count, applied))

    def read_now(self, key: ObjectKey) -> bytes | None:
        """The content, None if there is no such object."""
        found = self._objects.get(key)
        return None if found is None else bytes(found.data)

    def stat_now(self, key: ObjectKey) -> ObjectStat | None:
        found = self._objects.get(key)
        return None if found is None else self._stat(found)

    def xattrs_now(self, key: ObjectKey) -> Mapping[bytes, bytes]:
        found = self._objects.get(key)
        return {} if found is None else dict(found.xattrs)

    def put_now(self, key: ObjectKey, data: bytes, mtime_s: int = 1_000_000_000) -> int:
        """Replace the content as another client would; return the version."""
        return self.change_now(key, Change((WriteFull(data),), mtime_s=mtime_s))

    def remove_now(self, key: ObjectKey) -> None:
        self.change_now(key, Change((Remove(),)))

    def change_now(self, key: ObjectKey, change: Change) -> int:
        """Any change of another client; it is not in `changes`."""
        return self._apply(key, change)

    # --- The store

    async def stat(self, key: ObjectKey) -> ObjectStat:
        async with self._call(Call("stat", key)):
            return self._stat(self._found(key))

    async def stat_or_other(
        self, key: ObjectKey, other: ObjectKey
    ) -> tuple[ObjectStat | None, ObjectStat | None]:
        found: list[ObjectStat | None] = [None, None]
        failures: list[errors.StoreError | None] = [None, None]

        async def ask(index: int, asked: ObjectKey) -> None:
            try:
                found[index] = await self.stat(asked)
            except errors.ObjectNotFound:
                return
            except errors.StoreError as failure:
                failures[index] = failure

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 0, key)
            nursery.start_soon(ask, 1, other)
        needed = failures[0] or (failures[1] if found[0] is None else None)
        if needed is not None:
            raise needed
        return found[0], None if found[0] else found[1]

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        async with self._call(Call("read", key)):
            found = self._found(key)
            return ReadResult(bytes(found.data[offset : offset + length]), found.version)

    async def stat_and_read(self, key: ObjectKey, length: int) -> tuple[ObjectStat, ReadResult]:
        async with self._call(Call("stat_and_read", key)):
            found = self._found(key)
            return self._stat(found), ReadResult(bytes(found.data[:length]), found.version)

    async def inspect(self, key: ObjectKey, length: int) -> Inspection:
        async with self._call(Call("inspect", key)):
            found = self._found(key)
            entries = sorted(found.omap.items())
            return Inspection(
                self._stat(found),
                dict(found.xattrs),
                dict(entries[:_OMAP_PAGE_COUNT]),
                len(entries) > _OMAP_PAGE_COUNT,
                bytes(found.data[:length]),
            )

    async def apply(self, key: ObjectKey, change: Change) -> int:
        assert change.steps, "a change without steps does nothing, not even to mtime"
        async with self._call(Call("apply", key, change)):
            if not self._state(key.pool_id).is_writable:
                raise errors.PermissionDenied(f"{key}: no write cap")
            version = self._apply(key, change)
            if change.notice is not None:
                change.notice.sent_ns = time.monotonic_ns()
                with contextlib.suppress(OSError):  # whoever waited may be gone
                    os.write(change.notice.fd, change.notice.message)
                change.notice.is_sent = True
            self.changes.append((key, change))
            return version

    async def get_xattrs(self, key: ObjectKey) -> Xattrs:
        async with self._call(Call("get_xattrs", key)):
            found = self._found(key)
            return Xattrs(dict(found.xattrs), found.version)

    async def get_omap(self, key: ObjectKey) -> Mapping[bytes, bytes]:
        async with self._call(Call("get_omap", key)):
            entries = dict(self._found(key).omap)
            size_bytes = sum(len(name) + len(value) for name, value in entries.items())
            if size_bytes > self.limits.operation_bytes_max:
                raise errors.TooLarge(f"{key}: omap of {size_bytes} bytes")
            return entries

    async def list_objects(
        self, pool_id: int, namespace: bytes
    ) -> AsyncGenerator[list[ListedObject], None]:
        keys: list[ObjectKey] = []
        async with self._call(Call("list_objects")):
            self._readable_state(pool_id)
            keys = [key for key in self._objects if key[:2] == (pool_id, namespace)]
        for start in range(0, len(keys), BATCH_COUNT):
            async with self._call(Call("list_objects")):
                self._readable_state(pool_id)
                batch = [key for key in keys[start : start + BATCH_COUNT] if key in self._objects]
            if batch:
                yield [ListedObject(key.namespace, key.name, key.locator) for key in batch]

    def pools(self) -> tuple[Pool, ...]:
        if self._is_closed:
            raise errors.Disconnected("the connection is closed")
        now = tuple(state.pool for state in self._pools.values())
        if now != self._shown_pools:
            self._shown_pools = now
        return self._shown_pools

    async def refresh_pools(self) -> None:
        async with self._call(Call("refresh_pools")):
            return

    async def probe_read(self, pool_id: int, namespace: bytes) -> None:
        async with self._call(Call("probe_read")):
            self._readable_state(pool_id)

    async def probe_write(self, pool_id: int, namespace: bytes) -> None:
        async with self._call(Call("probe_write")):
            if not self._state(pool_id).is_writable:
                raise errors.PermissionDenied(f"pool {pool_id}: no write cap")

    async def usage(self) -> Usage:
        async with self._call(Call("usage")):
            pools = {pool_id: self._pool_usage(pool_id) for pool_id in self._pools}
            used_bytes = sum(pool.stored_bytes for pool in pools.values())
            return Usage(_TOTAL_BYTES, _TOTAL_BYTES - used_bytes, pools)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._is_closed = True

    # --- Calls: delays and failures

    @contextlib.asynccontextmanager
    async def _call(self, call: Call) -> AsyncGenerator[None, None]:
        """Around the body that takes effect: the checkpoint, the pause, the failure."""
        await trio.lowlevel.checkpoint()
        try:
            await self._hold(call)
        except trio.Cancelled:
            self._abandon(call)
            raise
        if self._is_closed:
            raise errors.Disconnected("the connection is closed")
        failure = self._next_failure(call)
        if failure is not None and not failure.is_applied:
            raise failure.error
        yield
        if failure is not None:
            raise failure.error

    async def _hold(self, call: Call) -> None:
        if self._resumed is not None:
            await self._resumed.wait()
        if self.delay is not None:
            await self.delay(call)

    def _abandon(self, call: Call) -> None:
        """A cancelled operation goes on: at the end of the pause, else at once."""
        if self._resumed is not None:
            self._abandoned.append(call)
        else:
            self._apply_unheard(call)

    def _apply_unheard(self, call: Call) -> None:
        if call.key is not None and call.change is not None:
            with contextlib.suppress(errors.StoreError):  # nobody is left to hear it
                self._apply(call.key, call.change)
                self.changes.append((call.key, call.change))

    def _next_failure(self, call: Call) -> _Failure | None:
        for failure in self._failures:
            if failure.matches(call):
                if failure.skip_count == 0:
                    self._failures.remove(failure)
                    return failure
                failure.skip_count -= 1
        return None

    # --- Objects

    def _state(self, pool_id: int) -> _PoolState:
        try:
            return self._pools[pool_id]
        except KeyError:
            raise errors.PoolGone(f"pool {pool_id} does not exist (any more)") from None

    def _readable_state(self, pool_id: int) -> _PoolState:
        state = self._state(pool_id)
        if not state.is_readable:
            raise errors.PermissionDenied(f"pool {pool_id}: no read cap")
        return state

    def _stat(self, item: MemoryObject) -> ObjectStat:
        brought = posix.kept_in(item.xattrs) if self._has_posix else None
        return ObjectStat(len(item.data), item.mtime_s, item.version, posix=brought)

    def _found(self, key: ObjectKey) -> MemoryObject:
        self._readable_state(key.pool_id)
        _check_name(key)
        try:
            return self._objects[key]
        except KeyError:
            raise errors.ObjectNotFound(f"{key}: no such object") from None

    def _apply(self, key: ObjectKey, change: Change) -> int:
        """All or nothing, without a checkpoint. Returns the version, 0 if removed."""
        self._state(key.pool_id)
        _check_name(key)
        old = self._objects.get(key)
        new = changed(old, change, self.limits)
        self._check_space(key.pool_id, old, new)
        self._version += 1
        self._state(key.pool_id).write_count += 1
        if new is None:
            self._objects.pop(key, None)
            return 0
        new.version = self._version
        self._objects[key] = new
        return new.version

    def _check_space(
        self, pool_id: int, old: MemoryObject | None, new: MemoryObject | None
    ) -> None:
        """As RADOS with full_try: what does not grow goes through."""
        added_bytes = _size(new) - _size(old)
        added_count = (new is not None) - (old is not None)
        if added_bytes <= 0 and added_count <= 0:
            return
        if self.is_full:
            raise errors.NoSpace("the cluster is full")
        state = self._pools[pool_id]
        if state.quota_bytes == state.quota_objects == 0:
            return  # without counting all objects
        usage = self._pool_usage(pool_id)
        if 0 < usage.quota_bytes < usage.stored_bytes + added_bytes:
            raise errors.QuotaExceeded(f"pool {pool_id}: quota_bytes")
        if 0 < usage.quota_objects < usage.object_count + added_count:
            raise errors.QuotaExceeded(f"pool {pool_id}: quota_objects")

    def _pool_usage(self, pool_id: int) -> PoolUsage:
        state = self._pools[pool_id]
        sizes = [len(value.data) for key, value in self._objects.items() if key[0] == pool_id]
        return PoolUsage(
            stored_bytes=sum(sizes),
            available_bytes=0 if self.is_full else _TOTAL_BYTES - sum(sizes),
            object_count=len(sizes),
            write_count=state.write_count,
            quota_bytes=state.quota_bytes,
            quota_objects=state.quota_objects,
        )


def _size(item: MemoryObject | None) -> int:
    return 0 if item is None else len(item.data)


def _check_name(key: ObjectKey) -> None:
    if len(key.name) > _NAME_BYTES_MAX:
        raise errors.NameTooLong(f"{key.name[:32]!r}… has {len(key.name)} bytes")
    if not key.name or b"\0" in key.name:
        raise errors.InvalidArgument(f"{key.name!r} is no object name")
