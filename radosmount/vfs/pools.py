"""Which pools this mount shows, and what it may do in them.

A pool that answers EPERM is hidden, once that is known: it is asked in the background, never
in the way of `ls`. Pools that belong to rbd, CephFS, RGW or the manager are read-only, since a
file written there by mistake damages someone else's data.
"""

import logging
import math
from typing import Final

import trio

from radosmount import switching
from radosmount.config import ViewConfig
from radosmount.errors import (
    AccessDenied,
    MountError,
    PermissionDenied,
    PoolGone,
    ReadOnly,
    StoreError,
)
from radosmount.store.interface import Pool, Store
from radosmount.store.names import COMPONENT_BYTES_MAX, InvalidPath, escape_pool, pool_of
from radosmount.vfs.nodes import ObjectPlace

log = logging.getLogger(__name__)

Place = tuple[int, bytes]  # pool id and namespace: an ObjectPlace, or how an ObjectKey begins

FOREIGN_APPLICATIONS: Final = ("rbd", "cephfs", "rgw", "mgr")
# A monitor answers in milliseconds; without one, the pools known so far are shown.
REFRESH_WAIT_S: Final = 1.0
REFRESH_INTERVAL_S: Final = 10.0
PROBE_WAIT_S: Final = 2.0
# The probe's OSD may be a dead one that has nothing to do with the file.
WRITE_PROBE_WAIT_S: Final = 2.0
# So long nobody waits for it again.
WRITE_PROBE_PAUSE_S: Final = 10.0


class Pools:
    def __init__(self, store: Store, view: ViewConfig) -> None:
        self._store = store
        self._view = view
        self._hidden: set[int] = set()
        self._probed: set[int] = set()
        self._writable: set[Place] = set()
        self._silent_s: dict[Place, float] = {}  # when the probe was not answered
        self._indexed: tuple[Pool, ...] = ()  # what `_pool_by_id` was made of
        self._checked: set[Place] = set()  # places that may be written, by those pools
        self._pool_by_id: dict[int, Pool] = {}

    async def start(self) -> ObjectPlace | None:
        """Return where the root's objects are; None for a root of all pools.

        Raises: MountError where there is no such pool.
        """
        if self._view.pool is None:
            with trio.move_on_after(PROBE_WAIT_S):
                await self._probe()
            return None
        pool = await self.find(escape_pool(self._view.pool))
        if pool is None:
            name = self._view.pool.decode(errors="backslashreplace")
            raise MountError(f"there is no pool '{name}': see `ceph osd pool ls`")
        return ObjectPlace(pool.pool_id, self._view.namespace)

    async def run(self) -> None:
        """Hear of new and removed pools, and which may be read. Never returns."""
        while True:
            await self.refresh()
            await self._probe()
            await trio.sleep(REFRESH_INTERVAL_S)

    async def refresh(self) -> None:
        """Ask for the newest pools, and wait a little for the answer."""
        with trio.move_on_after(REFRESH_WAIT_S):
            try:
                await self._store.refresh_pools()
            except StoreError as failure:
                log.info("the pools may be out of date: %s", failure)

    def visible(self) -> list[tuple[bytes, int]]:
        """The directories of the root, as (name, pool id).

        A pool whose name is over 255 bytes can only be mounted by itself: no path holds it.
        """
        shown = [pool for pool in self._store.pools() if pool.pool_id not in self._hidden]
        named = [(escape_pool(pool.name), pool.pool_id) for pool in shown]
        return [(name, pool_id) for name, pool_id in named if len(name) <= COMPONENT_BYTES_MAX]

    async def find(self, component: bytes) -> Pool | None:
        """The pool that a directory of the root shows; a new one is asked for."""
        try:
            name = pool_of(component)
        except InvalidPath:
            return None
        pool = self._by_name(name)
        if pool is None:
            await self.refresh()
            pool = self._by_name(name)
        return pool

    def name_of(self, pool_id: int) -> bytes:
        """Raises: PoolGone."""
        return self._by_id(pool_id).name

    async def check_writable(self, place: Place) -> None:
        """Where nobody tells within a moment, the flush will.

        Raises: ReadOnly, as the mount or the pool is; AccessDenied without the caps.
        """
        if place in self._checked and self._store.pools() is self._indexed:
            return
        pool = self._by_id(place[0])
        if self._view.is_read_only or self._is_foreign(pool):
            raise ReadOnly(f"pool {pool.name!r} is read-only here")
        if place in self._writable:
            self._checked.add(place)
            return
        if self._was_silent(place):
            return
        with trio.move_on_after(WRITE_PROBE_WAIT_S) as scope:
            await self._probe_write(pool, place)
        if scope.cancelled_caught:
            self._silent_s[place] = switching.current_time()
            log.info("nobody tells yet whether pool %r may be written", pool.name)

    def _was_silent(self, place: Place) -> bool:
        """Whether the write probe was waited for in vain a moment ago."""
        silent_s = self._silent_s.get(place, -math.inf)
        return switching.current_time() - silent_s < WRITE_PROBE_PAUSE_S

    async def _probe_write(self, pool: Pool, place: Place) -> None:
        try:
            await self._store.probe_write(*place)
            self._writable.add(place)
        except PermissionDenied as refusal:
            raise AccessDenied(f"no caps to write to pool {pool.name!r}") from refusal
        except StoreError as failure:
            if not failure.is_transient:
                raise
            log.info("cannot tell whether pool %r may be written: %s", pool.name, failure)

    def _is_foreign(self, pool: Pool) -> bool:
        if pool.name == self._view.pool or pool.name in self._view.writable_pools:
            return False
        return any(app.startswith(FOREIGN_APPLICATIONS) for app in pool.applications)

    def _by_name(self, name: bytes) -> Pool | None:
        return next((pool for pool in self._store.pools() if pool.name == name), None)

    def _by_id(self, pool_id: int) -> Pool:
        pools = self._store.pools()
        if pools is not self._indexed:
            self._indexed = pools
            self._pool_by_id = {pool.pool_id: pool for pool in pools}
            self._checked.clear()
        pool = self._pool_by_id.get(pool_id)
        if pool is None:
            raise PoolGone(f"pool {pool_id} was removed")
        return pool

    async def _probe(self) -> None:
        """Ask every pool that was not asked yet whether it may be read."""
        if self._view.pool is not None:
            return
        for pool in self._store.pools():
            if pool.pool_id not in self._probed:
                await self._probe_one(pool)

    async def _probe_one(self, pool: Pool) -> None:
        try:
            await self._store.probe_read(pool.pool_id, b"")
        except PermissionDenied:
            self._hidden.add(pool.pool_id)
        except StoreError as failure:
            log.info("cannot tell whether pool %r may be read: %s", pool.name, failure)
            return  # asked again with the next round
        self._probed.add(pool.pool_id)
