"""The store on a cluster: puts connection, object calls, listing and monitor together.

Runs on the trio thread, and does nothing there that can wait for the cluster. The calls on
objects have two drivers, see object_calls.py; all else is the same for both.
"""

import functools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import outcome
import rados
import trio

from radosmount import errors
from radosmount.config import StoreConfig
from radosmount.store.interface import (
    Change,
    Inspection,
    Limits,
    ListedObject,
    ObjectKey,
    ObjectStat,
    Pool,
    ReadResult,
    Usage,
    Xattrs,
)
from radosmount.store.rados import connection, monitor, names
from radosmount.store.rados.executor import Executor
from radosmount.store.rados.listing import Cursor, Decode, ListingHandle, decode
from radosmount.store.rados.monitor import Osdmap
from radosmount.store.rados.object_calls import ObjectCalls
from radosmount.store.rados.threaded_calls import ThreadedCalls

if TYPE_CHECKING:
    from radosmount.store.rados.native._native import Handle

log = logging.getLogger(__name__)

T = TypeVar("T")
Call = Coroutine[Any, Any, T]


class _NoState:
    """For threads that keep nothing."""

    def close(self) -> None:
        pass


# Listings have threads of their own, so that they never stand before a read or write; two of
# one pool at most, lest a dead pool takes them all.
_LIST_THREAD_COUNT: Final = 4
_LIST_POOL_THREAD_COUNT_MAX: Final = 2

# One thread for the osdmap, which can wait for a monitor without limit, one for commands.
_MONITOR_THREAD_COUNT: Final = 2

# At the end: what a call may take beyond its time-out (a listing's first one connects, too).
_CLOSE_MARGIN_S: Final = 10.0

# Nothing is lost by these calls, and one of them waits for a dead monitor without limit.
_MONITOR_CLOSE_TIMEOUT_S: Final = 1.0

_PROBE_NAME: Final = b"probe"  # only pool and namespace of the key count


async def open_rados_store(config: StoreConfig) -> "RadosStore":
    """Connect, within `connect_timeout_s`. To be ended by `aclose`.

    Raises: MountError, one line that says what to do.
    """
    connected = await trio.to_thread.run_sync(
        functools.partial(_connect, config), abandon_on_cancel=True
    )
    return RadosStore(config, *connected)


def _connect(config: StoreConfig) -> "tuple[rados.Rados, Limits, Handle | None]":
    """The binding connects in any case: it says best what is wrong."""
    handle = connection.connect(config)
    try:
        _check_names(handle)
        return handle, monitor.read_limits(handle), _connect_native(config)
    except BaseException:
        handle.shutdown()
        raise


def _connect_native(config: StoreConfig) -> "Handle | None":
    """None: the binding does all. Raises: MountError where `driver` insists on the module."""
    if config.driver == "binding":
        return None
    try:
        from radosmount.store.rados.native import native_calls
    except ImportError as failure:
        if config.driver == "native":
            text = f"driver=native: the compiled module is missing ({failure}); see scripts/setup"
            raise errors.MountError(text) from None
        log.info("the compiled module is missing, calls go through threads: %s", failure)
        return None
    try:
        return native_calls.connect(config)
    except (OSError, errors.StoreError) as failure:
        raise errors.MountError(f"cannot connect a second time: {failure}") from None


def _make_calls(
    config: StoreConfig,
    handle: rados.Rados,
    limits: Limits,
    native_handle: "Handle | None",
    is_pool_known: Callable[[int], bool],
    refresh_pools: Callable[[], Awaitable[None]],
) -> ObjectCalls:
    if native_handle is None:
        return ThreadedCalls(config, handle, limits)
    from radosmount.store.rados.native.native_calls import NativeCalls

    return NativeCalls(config, native_handle, limits, is_pool_known, refresh_pools)


def _decoder(native_handle: "Handle | None") -> Decode:
    if native_handle is None:
        return decode
    from radosmount.store.rados.native._native import decode_listing

    return decode_listing


def _check_names(handle: rados.Rados) -> None:
    """Only an ioctx can tell, so a cluster without pools goes unchecked."""
    for pool_name in handle.list_pools()[:1]:
        ioctx = handle.open_ioctx(pool_name)
        try:
            names.check(ioctx)
        finally:
            ioctx.close()


class _Begun(Generic[T]):
    """A call that is under way before anybody waits for it, and ends even if nobody does."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._outcome: outcome.Outcome[T] | None = None
        self._done = trio.Event()
        trio.lowlevel.spawn_system_task(self._run)

    async def result(self) -> T:
        await self._done.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()

    async def _run(self) -> None:
        self._outcome = await outcome.acapture(self._call)
        self._done.set()


class RadosStore:
    """`interface.Store` on a cluster. One trio run, one connection."""

    def __init__(
        self,
        config: StoreConfig,
        handle: rados.Rados,
        limits: Limits,
        native_handle: "Handle | None" = None,
    ) -> None:
        self._config = config
        self._handle = handle
        self._limits = limits
        self._cluster_id: str = handle.get_fsid()
        self._calls = _make_calls(
            config, handle, limits, native_handle, self._is_pool_known, self.refresh_pools
        )
        self._osdmap = Osdmap(handle, self._calls.fetch_osdmap)
        self._listing_handle = ListingHandle(config, _decoder(native_handle))
        self._listings: Executor[_NoState] = Executor(
            "rados-list",
            _NoState,
            _LIST_THREAD_COUNT,
            _LIST_POOL_THREAD_COUNT_MAX,
            config.timeout_s,
        )
        self._monitor_calls: Executor[_NoState] = Executor(
            "rados-mon", _NoState, _MONITOR_THREAD_COUNT, 1, config.timeout_s
        )
        self._warned_pool_ids: set[int] = set()
        self._is_closed = False

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def cluster_id(self) -> str:
        return self._cluster_id

    # The calls' own coroutines, with none around them: every operation passes here.

    def stat(self, key: ObjectKey) -> Call[ObjectStat]:
        return self._calls.stat(key)

    def stat_or_other(
        self, key: ObjectKey, other: ObjectKey
    ) -> Call[tuple[ObjectStat | None, ObjectStat | None]]:
        return self._calls.stat_or_other(key, other)

    def read(self, key: ObjectKey, offset: int, length: int) -> Call[ReadResult]:
        # `length` bytes are allocated beforehand, whatever there is to read.
        length = min(length, self._limits.object_bytes_max)
        return self._calls.read(key, offset, length)

    def stat_and_read(self, key: ObjectKey, length: int) -> Call[tuple[ObjectStat, ReadResult]]:
        return self._calls.stat_and_read(key, min(length, self._limits.object_bytes_max))

    def inspect(self, key: ObjectKey, length: int) -> Call[Inspection]:
        return self._calls.inspect(key, min(length, self._limits.object_bytes_max))

    def get_xattrs(self, key: ObjectKey) -> Call[Xattrs]:
        return self._calls.get_xattrs(key)

    def get_omap(self, key: ObjectKey) -> Call[Mapping[bytes, bytes]]:
        return self._calls.get_omap(key)

    def apply(self, key: ObjectKey, change: Change) -> Call[int]:
        return self._calls.apply(key, change)

    async def list_objects(
        self, pool_id: int, namespace: bytes
    ) -> AsyncGenerator[list[ListedObject], None]:
        if not self._is_pool_known(pool_id):
            # The other handle would ask a monitor, and wait for it without limit.
            raise errors.PoolGone(f"pool {pool_id} does not exist (any more)")
        cursor = self._listing_handle.cursor(pool_id, namespace)
        try:
            fetch = functools.partial(self._next_batch, pool_id, cursor)
            following = _Begun(fetch)
            while (batch := await following.result()) is not None:
                following = _Begun(fetch)  # the OSD works while this one is handled
                if batch:
                    yield batch
            self._warn_unnameable(pool_id, cursor.unnameable_count)
        finally:
            cursor.close()

    def pools(self) -> tuple[Pool, ...]:
        if self._is_closed:  # librados crashes when asked while it shuts down
            raise errors.Disconnected("the connection is closed")
        return self._osdmap.pools()

    async def refresh_pools(self) -> None:
        ticket = self._osdmap.next_ticket()
        await self._monitor_calls.call(
            "osdmap", lambda _: self._osdmap.fetch(ticket), is_droppable=True
        )
        self._osdmap.forget_pools()

    async def probe_read(self, pool_id: int, namespace: bytes) -> None:
        await self._calls.probe_read(ObjectKey(pool_id, namespace, _PROBE_NAME))

    async def probe_write(self, pool_id: int, namespace: bytes) -> None:
        await self._calls.probe_write(ObjectKey(pool_id, namespace, _PROBE_NAME))

    async def usage(self) -> Usage:
        return await self._monitor_calls.call(
            "command", lambda _: monitor.read_usage(self._handle), is_droppable=True
        )

    async def aclose(self) -> None:
        self._is_closed = True
        timeout_s = self._config.timeout_s + _CLOSE_MARGIN_S
        ended: list[bool] = []

        async def end(part: ObjectCalls | Executor[Any], timeout_s: float) -> None:
            ended.append(await part.aclose(timeout_s))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, self._calls, timeout_s)
            nursery.start_soon(end, self._listings, timeout_s)
            nursery.start_soon(end, self._monitor_calls, _MONITOR_CLOSE_TIMEOUT_S)
        if not all(ended):
            # Shutting down under a running call crashes the process.
            raise errors.TimedOut("calls to the cluster still run and cannot be ended")
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._shut_down)

    def _shut_down(self) -> None:
        self._listing_handle.close()
        self._calls.shut_down()
        self._handle.shutdown()

    def _is_pool_known(self, pool_id: int) -> bool:
        return any(pool.pool_id == pool_id for pool in self.pools())

    async def _next_batch(self, pool_id: int, cursor: Cursor) -> list[ListedObject] | None:
        return await self._listings.call(pool_id, lambda _: cursor.next_batch(), is_droppable=True)

    def _warn_unnameable(self, pool_id: int, count: int) -> None:
        if count and pool_id not in self._warned_pool_ids:
            self._warned_pool_ids.add(pool_id)
            log.warning(
                "pool %d: %d objects are not shown: their names hold a NUL, which librados "
                "cannot pass",
                pool_id,
                count,
            )
