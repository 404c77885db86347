"""The calls on one object through our compiled module: sent and answered on the trio thread,
no thread of ours in between (docs/decisions/0014).

    call() ──> Traffic.send ──> librados        what is in flight and what waits: traffic.pxi
    call() <── Traffic.deliver <── one eventfd for many completions

Invariants:
- All bookkeeping happens on the trio thread. A task that stops waiting leaves its operation to
  itself.
- A droppable call (a read, of which nothing can be seen) is answered within `timeout_s`, even
  behind calls to a dead pool; any other when it has ended, since it may be applied until then.
- Nothing here waits for the cluster: an ioctx is opened only of a pool in the cached osdmap, and
  what is in flight stays below librados's own bounds.
"""

import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from radosmount import errors, switching
from radosmount.config import MIB, StoreConfig
from radosmount.store import posix
from radosmount.store.interface import (
    Change,
    Inspection,
    Limits,
    ObjectKey,
    ObjectStat,
    ReadResult,
    Remove,
    Xattrs,
)
from radosmount.store.rados import connection, translation
from radosmount.store.rados.conventions import NO_XATTR, OMAP_PAGE_COUNT, PROBE_NAME
from radosmount.store.rados.native._native import (
    Admission,
    Handle,
    Ioctx,
    Operation,
    ReadOperation,
    Traffic,
    WriteOperation,
    build,
    carried_bytes,
)

log = logging.getLogger(__name__)

# An operation in flight costs no thread, only memory here and work for the OSDs. A pool may have as
# many as the mount has requests at a time: those to a dead OSD hold up none to another.
_OPERATIONS_PER_THREAD: Final = 64
# Below connection._INFLIGHT_BYTES_MAX, at which librados blocks its caller; a pool, a quarter.
_IN_FLIGHT_BYTES_MAX: Final = 1024 * MIB
_POOL_IN_FLIGHT_BYTES_MAX: Final = 256 * MIB

# How late a time-out may be noticed.
_EXPIRY_INTERVAL_S: Final = 1.0

# librados copies what is written, 4 MiB in a millisecond. What is larger is copied beside the loop,
# by so many threads at once; for 4 MiB that cost a fifth more CPU and gained nothing.
_THREADED_COPY_BYTES: Final = 8 * MIB
_COPY_THREAD_COUNT: Final = 2


def connect(config: StoreConfig) -> Handle:
    """As connection.connect, which went well before: so no words on what to do."""
    handle = Handle(config.cluster, config.client_name)
    try:
        code = handle.read_conf(config.conf_path)
        if not (code == -errno.ENOENT and config.monitor_hosts is not None):
            _check(code)
        _check(handle.parse_environment())
        for key, value in connection.settings(config):
            _check(handle.set_option(key, value))
        _check(handle.connect())
    except BaseException:
        handle.shutdown()
        raise
    return handle


def _check(code: int) -> None:
    if code < 0:
        raise translation.from_errno(code, "connecting")


class NativeCalls:
    """`ObjectCalls`. Owns the handle. To be built and used inside a trio run.

    `is_pool_known` and `refresh_pools` are those of the binding's handle, which may have seen a
    newer osdmap than ours.
    """

    def __init__(
        self,
        config: StoreConfig,
        handle: Handle,
        limits: Limits,
        is_pool_known: Callable[[int], bool],
        refresh_pools: Callable[[], Awaitable[None]],
    ) -> None:
        self._timeout_s = config.timeout_s
        self._has_posix = config.has_posix
        self._handle = handle
        self._limits = limits
        self._is_pool_known = is_pool_known
        self._refresh_pools = refresh_pools
        self._traffic = Traffic(
            handle,
            Admission(
                config.pool_thread_count_max * _OPERATIONS_PER_THREAD,
                _POOL_IN_FLIGHT_BYTES_MAX,
                _IN_FLIGHT_BYTES_MAX,
            ),
            self._open_ioctx,
            self._failure_of,
        )
        self._copying = trio.CapacityLimiter(_COPY_THREAD_COUNT)
        self._copy_count = 0
        self._is_closed = False
        self._idle = trio.Event()  # set while closed and nothing runs, waits or is being built
        self._is_ended = False
        trio.lowlevel.spawn_system_task(self._deliver)
        trio.lowlevel.spawn_system_task(self._expire)

    # --- The calls

    async def stat(self, key: ObjectKey) -> ObjectStat:
        operation = self._stat_operation(key)
        await self._read(operation)
        return self._stat_of(operation)

    async def stat_or_other(
        self, key: ObjectKey, other: ObjectKey
    ) -> tuple[ObjectStat | None, ObjectStat | None]:
        asked, beside = self._stat_operation(key), self._stat_operation(other)
        if switching.is_cancelled() or not self._reaches(key):
            await self._begin(key)
        self._traffic.send_droppable(asked, self._timeout_s)
        self._traffic.send_droppable(beside, self._timeout_s)  # left to itself if nobody needs it
        await asked
        if not asked.is_missing:
            self._check(asked)
            return self._stat_of(asked), None
        await beside
        if not beside.is_missing:
            self._check(beside)
            return None, self._stat_of(beside)
        if not self._handle.pool_exists(key.pool_id):
            raise _pool_gone(key.pool_id)
        return None, None

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        operation = ReadOperation(key)
        if length:
            operation.add_read(offset, length)
            operation.byte_count = length
        else:
            operation.add_stat()  # a read of no bytes would mean all of them
        await self._read(operation)
        return ReadResult(operation.data(), operation.version)

    async def stat_and_read(self, key: ObjectKey, length: int) -> tuple[ObjectStat, ReadResult]:
        operation = _with_head(self._stat_operation(key), length)
        await self._read(operation)
        return self._stat_of(operation), ReadResult(operation.data(), operation.version)

    async def inspect(self, key: ObjectKey, length: int) -> Inspection:
        operation = _with_head(ReadOperation(key), length)
        operation.add_stat()
        operation.add_xattrs()
        operation.add_omap(b"", OMAP_PAGE_COUNT)
        await self._read(operation)
        xattrs = operation.xattrs()  # once only
        return Inspection(
            self._stat_with(operation, xattrs),
            xattrs,
            dict(operation.omap()),
            operation.has_more_omap,
            operation.data(),
        )

    async def get_xattrs(self, key: ObjectKey) -> Xattrs:
        operation = ReadOperation(key)
        operation.add_xattrs()
        await self._read(operation)
        return Xattrs(operation.xattrs(), operation.version)

    async def get_omap(self, key: ObjectKey) -> Mapping[bytes, bytes]:
        """In pages, so not a snapshot of an omap that is being changed."""
        entries: dict[bytes, bytes] = {}
        size_bytes, after, has_more = 0, b"", True
        while has_more:
            operation = ReadOperation(key)
            operation.add_omap(after, OMAP_PAGE_COUNT)
            await self._read(operation)
            page = operation.omap()
            entries.update(page)
            size_bytes += sum(len(name) + len(value) for name, value in page)
            if size_bytes > self._limits.operation_bytes_max:
                raise errors.TooLarge(f"{key.name!r}: omap of over {size_bytes} bytes")
            has_more = operation.has_more_omap and bool(page)
            after = page[-1][0] if page else b""
            if has_more and b"\0" in after:  # librados would go on from another key
                raise errors.NotSupported(f"{key.name!r}: a NUL in the omap key {after!r}")
        return entries

    async def apply(self, key: ObjectKey, change: Change) -> int:
        assert change.steps, "a change without steps does nothing, not even to mtime"
        operation = WriteOperation(key)
        operation.byte_count = carried_bytes(change)
        if switching.is_cancelled() or not self._reaches(key):
            await self._begin(key)
        if operation.byte_count < _THREADED_COPY_BYTES:
            self._traffic.send(operation, change)
        else:
            await self._build_in_thread(operation, change)
            self._traffic.send(operation)
        await operation
        self._check(operation)
        if change.notice is not None:
            change.notice.is_sent, change.notice.sent_ns = True, operation.notified_ns
        return 0 if isinstance(change.steps[-1], Remove) else operation.version

    async def probe_read(self, place: ObjectKey) -> None:
        operation = ReadOperation(place._replace(name=PROBE_NAME))
        operation.add_stat()
        await self._expect_not_found(operation)

    async def probe_write(self, place: ObjectKey) -> None:
        operation = WriteOperation(place._replace(name=PROBE_NAME))
        operation.remove_xattr(NO_XATTR)
        await self._expect_not_found(operation)

    def fetch_osdmap(self) -> None:
        code = self._handle.fetch_osdmap()
        if code < 0:
            raise translation.from_errno(code, "fetching the osdmap")

    # --- The end

    async def aclose(self, timeout_s: float) -> bool:
        self._is_closed = True
        self._traffic.on_ended = self._settle_idle
        with trio.move_on_after(timeout_s, shield=True):
            self._settle_idle()
            await self._idle.wait()
        if not self._idle.is_set():
            self._traffic.refuse_waiting(_closed)
            return False
        if not self._is_ended:
            self._is_ended = True
            switching.notify_closing(self._handle.fileno())
            self._traffic.retire()
        return True

    def shut_down(self) -> None:
        self._handle.shutdown()

    # --- One call's way

    def _stat_operation(self, key: ObjectKey) -> ReadOperation:
        operation = ReadOperation(key)
        operation.add_stat()
        if self._has_posix:
            operation.add_xattrs()  # librados's C interface reads all together or none
        return operation

    def _stat_of(self, operation: ReadOperation) -> ObjectStat:
        return self._stat_with(operation, operation.xattrs() if self._has_posix else {})

    def _stat_with(self, operation: ReadOperation, xattrs: Mapping[bytes, bytes]) -> ObjectStat:
        brought = posix.kept_in(xattrs) if self._has_posix else None
        return ObjectStat(operation.size, operation.mtime_s, operation.version, posix=brought)

    async def _read(self, operation: Operation) -> None:
        """One that may be dropped, since nothing can be seen of it."""
        if switching.is_cancelled() or not self._reaches(operation.key):
            await self._begin(operation.key)
        self._traffic.send_droppable(operation, self._timeout_s)
        await operation
        self._check(operation)

    def _reaches(self, key: ObjectKey) -> bool:
        return not self._is_closed and self._traffic.reaches(key)

    async def _begin(self, key: ObjectKey) -> None:
        """The last moment at which cancelling means that nothing happens."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed:
            raise _closed()
        if not self._traffic.reaches(key):
            await self._learn_pool(key.pool_id)

    async def _learn_pool(self, pool_id: int) -> None:
        """Our handle does not know the pool; if the binding's does, ours shall, too."""
        if self._is_pool_known(pool_id):
            await self._refresh_pools()
        if self._is_closed:
            raise _closed()
        if not self._handle.pool_exists(pool_id):
            raise _pool_gone(pool_id)

    async def _build_in_thread(self, operation: WriteOperation, change: Change) -> None:
        """Shielded: one that is being built cannot be left to itself. The end waits for it, and
        nothing is awaited between here and its admission."""
        self._copy_count += 1
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(build, operation, change, limiter=self._copying)
        except BaseException:
            self._copy_count -= 1
            self._settle_idle()
            raise
        self._copy_count -= 1

    async def _deliver(self) -> None:
        """A system task: for as long as there is a loop to answer on."""
        await switching.attend(self._handle.fileno(), self._traffic.deliver)

    async def _expire(self) -> None:
        """A system task, too."""
        while not self._is_ended:
            await trio.sleep(_EXPIRY_INTERVAL_S)
            self._traffic.refuse_overdue(
                lambda: errors.TimedOut(f"no answer in {self._timeout_s:g} s")
            )

    def _settle_idle(self) -> None:
        if self._is_closed and self._traffic.admission.is_idle and not self._copy_count:
            self._idle.set()

    def _check(self, operation: Operation) -> None:
        """Raises: what the answer says."""
        if not operation.is_well:
            raise self._refusal_of(operation)

    def _refusal_of(self, operation: Operation) -> errors.StoreError:
        return operation.failure or self._failure_of(operation.key, operation.code)

    def _failure_of(self, key: ObjectKey, code: int) -> errors.StoreError:
        if code == -errno.ENOENT and not self._handle.pool_exists(key.pool_id):
            return _pool_gone(key.pool_id)
        return translation.from_errno(code, f"{key.name!r} in pool {key.pool_id}")

    def _open_ioctx(self, key: ObjectKey) -> Ioctx:
        """Raises: PoolGone."""
        if not self._handle.pool_exists(key.pool_id):
            raise _pool_gone(key.pool_id)
        try:
            return self._handle.open_ioctx(key.pool_id, key.namespace, key.locator)
        except OSError as failure:
            what = f"pool {key.pool_id}"
            raise translation.from_errno(failure.errno or errno.EIO, what) from None

    async def _expect_not_found(self, operation: Operation) -> None:
        try:
            await self._read(operation)
        except errors.ObjectNotFound:
            return


def _closed() -> errors.Disconnected:
    return errors.Disconnected("the connection is closed")


def _pool_gone(pool_id: int) -> errors.PoolGone:
    return errors.PoolGone(f"pool {pool_id} does not exist (any more)")


def _with_head(operation: ReadOperation, length: int) -> ReadOperation:
    """That reads at most the first `length` bytes, too."""
    if length:  # a read of no bytes would mean all of them
        operation.add_read(0, length)
        operation.byte_count = length
    return operation
