"""What df(1) shows, and that it never hangs: without a monitor, the last that was heard."""

import logging
from dataclasses import dataclass
from typing import Final

import trio

from radosmount import switching
from radosmount.errors import StoreError
from radosmount.store.interface import PoolUsage, Store, Usage

log = logging.getLogger(__name__)

FRESHNESS_S: Final = 2.0
WAIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class SpaceUsage:
    """Bytes of a whole (statvfs(3)); `object_count` 0 where it is not known."""

    total_bytes: int
    available_bytes: int
    object_count: int


class SpaceMeter:
    """`pool_id` None measures the cluster."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: Usage | None = None
        self._asked_s = float("-inf")

    async def measure(self, pool_id: int | None) -> SpaceUsage:
        await self._refresh()
        if self._last is None:
            return SpaceUsage(0, 0, 0)
        if pool_id is None:
            count = sum(pool.object_count for pool in self._last.pools.values())
            return SpaceUsage(self._last.total_bytes, self._last.available_bytes, count)
        pool = self._last.pools.get(pool_id)
        return _pool_space(pool) if pool else SpaceUsage(0, 0, 0)

    async def _refresh(self) -> None:
        if switching.current_time() - self._asked_s < FRESHNESS_S:
            return
        self._asked_s = switching.current_time()
        with trio.move_on_after(WAIT_S):
            try:
                found = await self._store.usage()
                if found.total_bytes or self._last is None:  # a monitor that has just begun: zeros
                    self._last = found
            except StoreError as failure:
                log.info("df shows the last known values: %s", failure)


def _pool_space(pool: PoolUsage) -> SpaceUsage:
    """Room is what the pool may still take; a quota may leave less than the disks would."""
    available = pool.available_bytes
    if pool.quota_bytes:
        available = min(available, max(pool.quota_bytes - pool.stored_bytes, 0))
    return SpaceUsage(pool.stored_bytes + available, available, pool.object_count)
