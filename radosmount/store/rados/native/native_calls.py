"""The calls on one object through our compiled module: sent and answered on the trio thread,
no thread of ours in between (docs/decisions/0014).

    call() -> Admission -> Ioctx.submit ──> librados
    the waiting task <─ _settle() <─ _deliver() <─ one eventfd for many completions

Invariants:
- All bookkeeping happens on the trio thread. A task that stops waiting leaves its operation to
  itself: what librados uses belongs to the operation, which lives until it has completed.
- A droppable call (a read, of which nothing can be seen) is answered within `timeout_s`, even
  behind calls to a dead pool; any other when it has ended, since it may be applied until then.
- Nothing here waits for the cluster: an ioctx is opened only of a pool in the cached osdmap, and
  what is in flight stays below librados's own bounds.
"""

import collections
import contextlib
import errno
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import outcome
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
    Handle,
    Ioctx,
    Operation,
    ReadOperation,
    WriteOperation,
)
from radosmount.store.rados.native.admission import Admission, Bounds
from radosmount.store.rados.native.steps import build, carried_bytes

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

_IOCTX_COUNT_MAX: Final = 64  # objects with locator keys could else pile them up


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
        self._ioctxs = _Ioctxs(handle)
        self._admission: Admission[Operation] = Admission(
            Bounds(
                config.pool_thread_count_max * _OPERATIONS_PER_THREAD,
                _POOL_IN_FLIGHT_BYTES_MAX,
                _IN_FLIGHT_BYTES_MAX,
            )
        )
        self._droppable: dict[Operation, None] = {}  # that wait for their answer, oldest first
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
        await self._begin(key)
        self._send_droppable(asked)
        self._send_droppable(beside)  # left to itself where nobody needs it
        with contextlib.suppress(errors.ObjectNotFound):
            await self._answer_of(asked)
            return self._stat_of(asked), None
        with contextlib.suppress(errors.ObjectNotFound):
            await self._answer_of(beside)
            return None, self._stat_of(beside)
        return None, None

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        operation = _read_operation(key)
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
        operation = _with_head(_read_operation(key), length)
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
        operation = _read_operation(key)
        operation.add_xattrs()
        await self._read(operation)
        return Xattrs(operation.xattrs(), operation.version)

    async def get_omap(self, key: ObjectKey) -> Mapping[bytes, bytes]:
        """In pages, so not a snapshot of an omap that is being changed."""
        entries: dict[bytes, bytes] = {}
        size_bytes, after, has_more = 0, b"", True
        while has_more:
            operation = _read_operation(key)
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
        _check_name(key)
        operation = WriteOperation(key)
        operation.byte_count = carried_bytes(change)
        await self._begin(key)
        if operation.byte_count < _THREADED_COPY_BYTES:
            operation.change = change  # copied when it is admitted: what waits is held once
        else:
            await self._build_in_thread(operation, change)
        self._send(operation)
        await self._answer_of(operation)
        if change.notice is not None:
            change.notice.is_sent = True
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
        with trio.move_on_after(timeout_s, shield=True):
            self._settle_idle()
            await self._idle.wait()
        if not self._idle.is_set():
            for operation in self._admission.withdraw_all():
                self._answer(operation, errors.Disconnected("the connection is closed"))
            return False
        if not self._is_ended:
            self._is_ended = True
            switching.notify_closing(self._handle.fileno())
            self._ioctxs.retire_all()
        return True

    def shut_down(self) -> None:
        self._handle.shutdown()

    # --- One call's way

    def _stat_operation(self, key: ObjectKey) -> ReadOperation:
        operation = _read_operation(key)
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
        await self._begin(operation.key)
        self._send_droppable(operation)
        await self._answer_of(operation)

    def _send_droppable(self, operation: Operation) -> None:
        operation.deadline_s = time.monotonic() + self._timeout_s
        self._droppable[operation] = None
        self._send(operation)

    async def _begin(self, key: ObjectKey) -> None:
        """The last moment at which cancelling means that nothing happens."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed:
            raise errors.Disconnected("the connection is closed")
        if not self._ioctxs.is_reachable(key):
            await self._learn_pool(key.pool_id)

    def _send(self, operation: Operation) -> None:
        """As soon as there is room for it."""
        if self._admission.enter(operation.key.pool_id, operation):
            self._submit(operation)

    async def _answer_of(self, operation: Operation) -> None:
        """Raises: what the answer says."""
        if not operation.is_answered:  # as it is when refused at once
            operation.task = switching.current_task()
            await switching.park(functools.partial(self._abandon, operation))
        if operation.failure is not None:
            raise operation.failure
        if operation.code < 0:
            raise self._failure(operation.key, operation.code)

    async def _learn_pool(self, pool_id: int) -> None:
        """Our handle does not know the pool; if the binding's does, ours shall, too."""
        if self._is_pool_known(pool_id):
            await self._refresh_pools()
        if self._is_closed:
            raise errors.Disconnected("the connection is closed")
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

    def _submit(self, operation: Operation) -> None:
        """It has been admitted. A failure is its answer."""
        try:
            if isinstance(operation, WriteOperation) and operation.change is not None:
                build(operation, operation.change)
                operation.change = None
            code = self._ioctxs.get(operation.key).submit(operation)
            failure = self._failure(operation.key, code) if code < 0 else None
        except errors.StoreError as refusal:
            failure = refusal
        except Exception as bug:  # must not end the task that delivers all answers
            log.exception("submitting %s", operation.key)
            failure = errors.StoreFailure(f"{operation.key.name!r}: {bug!r}")
        if failure is not None:
            self._settle(operation, failure)

    async def _deliver(self) -> None:
        """A system task: for as long as there is a loop to answer on."""
        while not self._is_ended:
            try:
                await switching.wait_readable(self._handle.fileno(), self._handle.has_completed)
            except trio.ClosedResourceError:
                return
            for operation in self._handle.drain():
                self._settle(operation, None)

    def _settle(self, operation: Operation, failure: errors.StoreError | None) -> None:
        """It has ended, or never began: answer, and let others begin."""
        self._answer(operation, failure)
        for started in self._admission.leave(operation):
            self._submit(started)
        if self._is_closed:
            self._settle_idle()

    def _answer(self, operation: Operation, failure: errors.StoreError | None) -> None:
        self._droppable.pop(operation, None)
        operation.failure = failure
        operation.is_answered = True
        if operation.task is not None:
            switching.wake(operation.task)
            operation.task = None

    def _abandon(self, operation: Operation, _: object = None) -> trio.lowlevel.Abort:
        """Nobody waits for the answer; if none needs the operation either, it does not begin."""
        operation.task = None
        if operation in self._droppable:
            del self._droppable[operation]
            if self._admission.withdraw(operation):
                for started in self._admission.started():
                    self._submit(started)
                self._settle_idle()
        return trio.lowlevel.Abort.SUCCEEDED

    async def _expire(self) -> None:
        """A system task, too."""
        while not self._is_ended:
            await trio.sleep(_EXPIRY_INTERVAL_S)
            now_s = time.monotonic()
            while (first := next(iter(self._droppable), None)) and now_s >= first.deadline_s:
                task = first.task
                self._abandon(first)
                if task is not None:
                    refusal = errors.TimedOut(f"no answer in {self._timeout_s:g} s")
                    switching.wake(task, outcome.Error(refusal))

    def _settle_idle(self) -> None:
        if self._is_closed and self._admission.is_idle and not self._copy_count:
            self._idle.set()

    def _failure(self, key: ObjectKey, code: int) -> errors.StoreError:
        if code == -errno.ENOENT and not self._handle.pool_exists(key.pool_id):
            return _pool_gone(key.pool_id)
        return translation.from_errno(code, f"{key.name!r} in pool {key.pool_id}")

    async def _expect_not_found(self, operation: Operation) -> None:
        try:
            await self._read(operation)
        except errors.ObjectNotFound:
            return


class _Ioctxs:
    """One for each pool, namespace and locator key; the least recently used one beyond the limit
    is retired, and lives on while something is in flight on it."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._ioctx_by_place: collections.OrderedDict[tuple[int, bytes, bytes], Ioctx]
        self._ioctx_by_place = collections.OrderedDict()

    def is_reachable(self, key: ObjectKey) -> bool:
        """Whether `get` gives an ioctx, without asking anyone."""
        place = (key.pool_id, key.namespace, key.locator)
        return place in self._ioctx_by_place or self._handle.pool_exists(key.pool_id)

    def get(self, key: ObjectKey) -> Ioctx:
        """Raises: PoolGone."""
        place = (key.pool_id, key.namespace, key.locator)
        ioctx = self._ioctx_by_place.get(place)
        if ioctx is not None:
            self._ioctx_by_place.move_to_end(place)
            return ioctx
        if not self._handle.pool_exists(key.pool_id):
            raise _pool_gone(key.pool_id)
        try:
            ioctx = self._handle.open_ioctx(key.pool_id, key.namespace, key.locator)
        except OSError as failure:
            what = f"pool {key.pool_id}"
            raise translation.from_errno(failure.errno or errno.EIO, what) from None
        self._ioctx_by_place[place] = ioctx
        if len(self._ioctx_by_place) > _IOCTX_COUNT_MAX:
            self._ioctx_by_place.popitem(last=False)[1].retire()
        return ioctx

    def retire_all(self) -> None:
        while self._ioctx_by_place:
            self._ioctx_by_place.popitem()[1].retire()


def _pool_gone(pool_id: int) -> errors.PoolGone:
    return errors.PoolGone(f"pool {pool_id} does not exist (any more)")


def _read_operation(key: ObjectKey) -> ReadOperation:
    _check_name(key)
    return ReadOperation(key)


def _with_head(operation: ReadOperation, length: int) -> ReadOperation:
    """That reads at most the first `length` bytes, too."""
    if length:  # a read of no bytes would mean all of them
        operation.add_read(0, length)
        operation.byte_count = length
    return operation


def _check_name(key: ObjectKey) -> None:
    """librados would cut a name at its NUL, and reach another object."""
    if not key.name or b"\0" in key.name:
        raise errors.InvalidArgument(f"{key.name!r}: librados cannot name it")
