"""Which directories the tree view of a pool or namespace has: an index of its names, and how
old it may be.

A listing of RADOS is of the whole pool. It is made when it is needed, once for all who need it
at the time; what this mount changes is in the index at once.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterable
from typing import Final

import trio

from radosmount import switching
from radosmount.background import contained
from radosmount.cache.ticket import Ticket
from radosmount.errors import StoreError
from radosmount.store.interface import ObjectKey, Store
from radosmount.store.names import Path
from radosmount.vfs.nameindex import NameIndex
from radosmount.vfs.nodes import ObjectPlace

log = logging.getLogger(__name__)

# A pool whose listing takes so long is listed again only where something was written to it.
LONG_LISTING_S: Final = 0.1
# How late the cluster is to tell (mgr_stats_period is 5 s; 3.5 to 5 s were seen).
USAGE_LAG_S: Final = 10.0
# So long nobody waits for a listing again after one has failed: it is tried in the background.
FAILURE_FRESHNESS_S: Final = 30.0
# A monitor answers in milliseconds; who has none lists.
USAGE_WAIT_S: Final = 1.0


class Tree:
    """Of one place. `unstored()` names the files that RADOS does not list yet."""

    def __init__(
        self,
        store: Store,
        place: ObjectPlace,
        nursery: trio.Nursery,
        unstored: Callable[[], Iterable[ObjectKey]],
    ) -> None:
        self._store = store
        self._nursery = nursery
        self._place = place
        self._unstored = unstored
        self._index: NameIndex | None = None
        self._began_s = -math.inf  # the listing that the index was made of (trio's clock)
        self._doubt_count = 0  # grows when only a later listing can tell what is there
        self._took_s = 0.0
        self._written: tuple[int, int] | None = None  # what the cluster said before it
        self._listing: Ticket[None] | None = None  # while one is being made
        self._failure: StoreError | None = None  # of the last one
        self._failed_s = -math.inf
        self._is_refreshing = False
        self._changes: list[tuple[ObjectKey, bool]] = []  # ours, meanwhile
        self._heard_gone: list[ObjectKey] = []  # meanwhile

    def known(self, max_age_s: float) -> NameIndex | None:
        """The index, if it is not older than that."""
        is_young = switching.current_time() - self._began_s <= max_age_s
        return self._index if is_young else None

    def lacks(self, path: Path, max_age_s: float) -> bool:
        """Whether an index that is not older has nothing of that path, and none is being made: to
        hear that there is no such object changes nothing then."""
        index = self.known(max_age_s)
        return index is not None and self._listing is None and not any(index.what_has(path))

    async def current(self, max_age_s: float) -> NameIndex:
        """The index as it is; one that is older is made anew meanwhile. Waits only for the first.

        Raises: what listing raises.
        """
        if self._index is None and not self._has_just_failed:
            return await self.index(max_age_s)
        return self._as_it_is(max_age_s)

    async def latest(self, max_age_s: float) -> NameIndex:
        """As `listed`; but where the pool cannot be listed, as old as it is.

        Raises: what listing raises, where there is none.
        """
        if not self._has_just_failed:
            with contextlib.suppress(StoreError):
                return await self.listed(max_age_s)
        return self._as_it_is(max_age_s)

    def _as_it_is(self, max_age_s: float) -> NameIndex:
        if self.known(max_age_s) is None and not self._is_refreshing:
            self._is_refreshing = True
            self._nursery.start_soon(self.refresh, max_age_s)
        if self._index is None:
            assert self._failure is not None
            raise self._failure.with_traceback(None)
        return self._index

    @property
    def _has_just_failed(self) -> bool:
        is_fresh = switching.current_time() - self._failed_s < FAILURE_FRESHNESS_S
        return self._failure is not None and is_fresh

    async def index(self, max_age_s: float) -> NameIndex:
        """The names as they were at most `max_age_s` before this call, or later.

        Raises: what listing raises.
        """
        asked_s = switching.current_time()
        while self._index is None or self._began_s < asked_s - max_age_s:
            if self._listing is None:
                self._listing = Ticket(self._load)
                self._nursery.start_soon(self._listing.run)
            await self._listing.result()
        return self._index

    async def listed(self, max_age_s: float) -> NameIndex:
        """As `index`; but where listing takes long, as old as the cluster is late to tell that
        something was written to the pool."""
        asked_s = switching.current_time()
        index = self.known(max_age_s)
        if index is None and self._took_s >= LONG_LISTING_S:
            written = await self._ask_written()
            if written is not None and written == self._written:
                self._began_s = max(self._began_s, asked_s - USAGE_LAG_S)
                index = self._index
        return index or await self.index(max_age_s)

    def note(self, key: ObjectKey, is_there: bool | None) -> None:
        """This mount has made or removed an object, or has heard that it is there. With None only
        a listing can tell, and none that has begun before."""
        if is_there is None:
            self._began_s, self._written = -math.inf, None
            self._doubt_count += 1
            return
        if self._index is not None:
            _apply(self._index, key, is_there)
        if self._listing is not None:
            self._changes.append((key, is_there))

    def note_heard_gone(self, key: ObjectKey) -> None:
        """A look-up has just found no such object. What others make of it meanwhile a listing that
        is under way may have, or not."""
        if self._index is not None:
            _apply(self._index, key, is_there=False)
        if self._listing is not None:
            self._changes.append((key, False))
            self._heard_gone.append(key)

    async def refresh(self, max_age_s: float) -> None:
        """Where nobody waits: a failure is no more than a line in the log."""
        with contained("listing a pool anew"):
            try:
                await self.listed(max_age_s)
            except StoreError as failure:
                log.info("pool %d is not listed anew: %s", self._place.pool_id, failure)
            finally:
                self._is_refreshing = False

    async def _load(self) -> None:
        began_s, doubt_count = switching.current_time(), self._doubt_count
        self._changes.clear()
        self._heard_gone.clear()
        index = NameIndex()
        for key in self._unstored():  # a flush may make the object behind the listing's back
            index.add(key.name, key.locator)
        try:
            is_long = self._index is None or self._took_s >= LONG_LISTING_S
            written = await self._ask_written() if is_long else None
            objects = self._store.list_objects(self._place.pool_id, self._place.namespace)
            async with contextlib.aclosing(objects) as batches:
                async for batch in batches:
                    for listed in batch:
                        index.add(listed.name, listed.locator)
            for key in self._unstored():
                index.add(key.name, key.locator)
            # Removed since it was listed, or made since it was looked up.
            is_in_doubt = any(index.has(key.name, key.locator) for key in self._heard_gone)
            for key, is_there in self._changes:
                _apply(index, key, is_there)
            self._index, self._took_s = index, switching.current_time() - began_s
            self._failure = None
            is_in_doubt = is_in_doubt or doubt_count != self._doubt_count
            self._began_s = -math.inf if is_in_doubt else began_s
            self._written = None if is_in_doubt else written
        except StoreError as failure:
            self._failure, self._failed_s = failure, switching.current_time()
            raise
        finally:
            self._listing = None

    async def _ask_written(self) -> tuple[int, int] | None:
        """What changes with every write to the pool, if the cluster tells."""
        with trio.move_on_after(USAGE_WAIT_S):
            with contextlib.suppress(StoreError):  # then there is no way around a listing
                usage = (await self._store.usage()).pools.get(self._place.pool_id)
                return (usage.object_count, usage.write_count) if usage else None
        return None


def _apply(index: NameIndex, key: ObjectKey, is_there: bool) -> None:
    change = index.add if is_there else index.discard
    change(key.name, key.locator)
