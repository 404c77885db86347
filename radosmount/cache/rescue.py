"""What the store did not take: into the spool, or at least into the log."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable

from radosmount.cache.changes import Attempt, Flight
from radosmount.cache.file import CachedFile
from radosmount.cache.spool import Spooler
from radosmount.cache.spoolfile import Spooled, movable
from radosmount.errors import StoreError
from radosmount.store.interface import Store

log = logging.getLogger(__name__)


class Rescue:
    """Without a `spooler`, what can never be stored is lost."""

    def __init__(self, store: Store, spooler: Spooler | None) -> None:
        self._store = store
        self._spooler = spooler
        self._pool_names: dict[int, bytes] = {}  # of pools that may be gone by now

    @property
    def has_spool(self) -> bool:
        return self._spooler is not None

    def note(self, file: CachedFile) -> None:
        """It has something that the store does not have: its pool is known by name now."""
        if file.key.pool_id not in self._pool_names:
            with contextlib.suppress(StoreError):
                self._pool_names |= {pool.pool_id: pool.name for pool in self._store.pools()}

    def keep(
        self,
        file: CachedFile,
        unstored: Flight,
        attempts: Iterable[Attempt],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """`unstored` must not change any more; `done()` is called when memory may forget it."""
        if self._spooler is not None:
            self._spooler.start(self._as_spooled(file, unstored, list(attempts)), done)
            return
        byte_count = unstored.changes.extents.byte_count
        text = "%r: %d bytes could not be stored and are lost: %s"
        log.error(text, file.key.name, byte_count, file.error)
        done()

    async def settle(self) -> None:
        """Wait until all of it is kept, or lost."""
        if self._spooler is not None:
            await self._spooler.settle()

    def _as_spooled(self, file: CachedFile, flight: Flight, attempts: list[Attempt]) -> Spooled:
        assert self._spooler is not None
        return Spooled(
            file.key,
            self._pool_names.get(file.key.pool_id, b""),
            self._spooler.cluster,
            movable(flight, attempts),
            tuple(attempts),
            str(file.error or "the mount has ended"),
            int(time.time()),
            self._store.cluster_id,
        )
