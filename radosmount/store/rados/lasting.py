"""A store that outlives its connection.

A client that the cluster has blocklisted gets ESHUTDOWN for every operation as long as it lives; a
new connection has an address of its own, and is let in. So the first such answer begins a new one,
in the background and again and again. What only reads is asked once more there; what changes an
object fails, since it may have been applied before the cluster cut us off: the flush tries again,
and finds out by the object's version. Nothing else is held that a new connection would have to
renew: no locks, no watches, and every version is compared where it counts.

A client whose monitors are all elsewhere by now, as ceph.conf says, never finds them. So where an
answer is missing and no monitor answers either, a connection is tried that reads ceph.conf anew.
"""

import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import trio

from radosmount.config import StoreConfig
from radosmount.errors import Disconnected, MountError, StoreError, TimedOut
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
from radosmount.store.rados.store import RadosStore, open_rados_store

log = logging.getLogger(__name__)

T = TypeVar("T")

# Between two attempts: at once at first, since most often the second connection is let in.
RETRY_DELAY_S_MIN: Final = 0.1
RETRY_DELAY_S_MAX: Final = 10.0
# Who is cut off again so soon after a new connection is not let in by its address either.
STABLE_S: Final = 30.0
# Between two looks for monitors, and how long those of before have to answer in the end.
SEARCH_INTERVAL_S: Final = 10.0
LAST_WAIT_S: Final = 2.0


async def open_lasting_store(config: StoreConfig) -> "LastingStore":
    """As `open_rados_store`."""
    return LastingStore(config, await open_rados_store(config))


class LastingStore:
    """`interface.Store`. One trio run; `connection` is its first."""

    def __init__(self, config: StoreConfig, connection: RadosStore) -> None:
        self._config = config
        self._connection = connection
        self._limits = connection.limits
        self._connected: trio.Event | None = None  # while there is no connection
        self._connected_s = trio.current_time()
        self._delay_s = RETRY_DELAY_S_MIN
        self._renewing: trio.CancelScope | None = None
        self._searching: trio.CancelScope | None = None
        self._searched_s = -math.inf
        self._retiring_count = 0
        self._retired = trio.Event()
        self._is_closed = False

    # --- What only reads

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def cluster_id(self) -> str:
        return self._connection.cluster_id

    def stat(self, key: ObjectKey) -> Coroutine[Any, Any, ObjectStat]:
        return self._ask(lambda connection: connection.stat(key))

    def stat_or_other(
        self, key: ObjectKey, other: ObjectKey
    ) -> Coroutine[Any, Any, tuple[ObjectStat | None, ObjectStat | None]]:
        return self._ask(lambda connection: connection.stat_or_other(key, other))

    def read(self, key: ObjectKey, offset: int, length: int) -> Coroutine[Any, Any, ReadResult]:
        return self._ask(lambda connection: connection.read(key, offset, length))

    def stat_and_read(
        self, key: ObjectKey, length: int
    ) -> Coroutine[Any, Any, tuple[ObjectStat, ReadResult]]:
        return self._ask(lambda connection: connection.stat_and_read(key, length))

    def inspect(self, key: ObjectKey, length: int) -> Coroutine[Any, Any, Inspection]:
        return self._ask(lambda connection: connection.inspect(key, length))

    def get_xattrs(self, key: ObjectKey) -> Coroutine[Any, Any, Xattrs]:
        return self._ask(lambda connection: connection.get_xattrs(key))

    def get_omap(self, key: ObjectKey) -> Coroutine[Any, Any, Mapping[bytes, bytes]]:
        return self._ask(lambda connection: connection.get_omap(key))

    def probe_read(self, pool_id: int, namespace: bytes) -> Coroutine[Any, Any, None]:
        return self._ask(lambda connection: connection.probe_read(pool_id, namespace))

    def probe_write(self, pool_id: int, namespace: bytes) -> Coroutine[Any, Any, None]:
        return self._ask(lambda connection: connection.probe_write(pool_id, namespace))

    async def _ask(self, ask: Callable[[RadosStore], Awaitable[T]]) -> T:
        """This connection, and where that turns out to be cut off, once the next."""
        connection = self._connection
        try:
            return await ask(connection)
        except TimedOut:
            self._doubt(connection)
            raise
        except Disconnected:
            await self._wait_for_another(connection)
            return await ask(self._connection)

    # --- The others. Most of them a blocklisted client may still ask.

    async def apply(self, key: ObjectKey, change: Change) -> int:
        if self._connected is not None:
            await self._wait_until_connected()
        connection = self._connection
        try:
            return await connection.apply(key, change)
        except TimedOut:
            self._doubt(connection)
            raise
        except Disconnected:
            self._lose(connection)
            raise

    async def list_objects(
        self, pool_id: int, namespace: bytes
    ) -> AsyncGenerator[list[ListedObject], None]:
        if self._connected is not None:
            await self._wait_until_connected()
        connection = self._connection
        objects = connection.list_objects(pool_id, namespace)
        try:
            async with contextlib.aclosing(objects) as batches:
                async for batch in batches:
                    yield batch
        except TimedOut:
            self._doubt(connection)
            raise
        except Disconnected:
            self._lose(connection)
            raise

    def pools(self) -> tuple[Pool, ...]:
        return self._connection.pools()

    async def refresh_pools(self) -> None:
        await self._connection.refresh_pools()

    async def usage(self) -> Usage:
        return await self._connection.usage()

    async def aclose(self) -> None:
        self._is_closed = True
        for background in (self._renewing, self._searching):
            if background is not None:
                background.cancel()
        while self._retiring_count:
            await self._retired.wait()
        await self._connection.aclose()

    # --- A new connection

    async def _wait_for_another(self, connection: RadosStore) -> None:
        """This one has failed. Raises: Disconnected where there is none for `timeout`."""
        self._lose(connection)
        await self._wait_until_connected()

    async def _wait_until_connected(self) -> None:
        """Raises: Disconnected where there is no connection for `timeout`."""
        with trio.move_on_after(self._config.timeout_s):
            while self._connected is not None and not self._is_closed:
                await self._connected.wait()
        if self._connected is not None or self._is_closed:
            raise Disconnected("the cluster has cut this client off")

    def _lose(self, connection: RadosStore) -> None:
        """It is of no use any more: have another one. Once for all who notice."""
        is_current = connection is self._connection
        if not is_current or self._connected is not None or self._is_closed:
            return
        log.error("the cluster has cut this client off (blocklisted): connecting anew")
        if trio.current_time() - self._connected_s > STABLE_S:
            self._delay_s = RETRY_DELAY_S_MIN
        self._connected = trio.Event()
        trio.lowlevel.spawn_system_task(self._renew)

    async def _renew(self) -> None:
        """A system task: nothing may leave it."""
        assert self._connected is not None
        with trio.CancelScope() as self._renewing:
            while not self._is_closed:
                delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, RETRY_DELAY_S_MAX)
                await trio.sleep(delay_s)
                try:
                    connection = await open_rados_store(self._config)
                except (MountError, StoreError) as failure:
                    log.warning("not connected: %s", failure)
                    continue
                except Exception:
                    log.exception("connecting: unexpected")
                    continue
                self._take(connection)
                break
        self._renewing = None
        self._connected_s = trio.current_time()
        connected, self._connected = self._connected, None
        connected.set()

    def _doubt(self, connection: RadosStore) -> None:
        """An answer is missing: look whether the monitors are where they were."""
        is_busy = self._connected is not None or self._searching is not None or self._is_closed
        is_early = trio.current_time() - self._searched_s < SEARCH_INTERVAL_S
        if connection is self._connection and not is_busy and not is_early:
            self._searching = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._search, self._searching, connection)

    async def _search(self, scope: trio.CancelScope, connection: RadosStore) -> None:
        """A system task: nothing may leave it."""
        with scope:
            try:
                if not await self._has_monitor(connection):
                    await self._try_another(connection)
            except (MountError, StoreError) as failure:
                log.info("no monitor is reached: %s", failure)
            except Exception:
                log.exception("looking for monitors: unexpected")
        self._searching, self._searched_s = None, trio.current_time()

    async def _has_monitor(self, connection: RadosStore) -> bool:
        try:
            await connection.usage()
        except TimedOut:
            return False
        except StoreError:
            pass  # an answer all the same
        return True

    async def _try_another(self, connection: RadosStore) -> None:
        """Raises: MountError, StoreError where there is none either, or of another cluster."""
        another = await open_rados_store(self._config)
        is_wanted = True
        with trio.move_on_after(LAST_WAIT_S):
            is_wanted = not await self._has_monitor(connection)  # it may have come back meanwhile
        is_same = another.cluster_id == connection.cluster_id
        if is_wanted and is_same and self._connected is None and not self._is_closed:
            self._take(another)
        else:
            await another.aclose()
        if not is_same:
            raise StoreError("ceph.conf names another cluster by now")

    def _take(self, connection: RadosStore) -> None:
        old, self._connection = self._connection, connection
        self._retiring_count += 1
        trio.lowlevel.spawn_system_task(self._retire, old)
        log.warning("connected anew to the cluster")

    async def _retire(self, connection: RadosStore) -> None:
        """A system task, too."""
        try:
            await connection.aclose()
        except StoreError as failure:
            log.info("a connection of before is left behind: %s", failure)
        except Exception:
            log.exception("closing: unexpected")
        finally:
            self._retiring_count -= 1
            if not self._retiring_count:
                self._retired.set()
                self._retired = trio.Event()
