"""What listed names are, where a listing must tell.

With `posix` a name may be a symbolic link, and the kernel takes from the listing what it is. So
each object is asked for before it is listed, many at once; one that is gone by then is not listed.
"""

from collections.abc import Callable
from typing import Final

import trio

from radosmount.errors import ObjectNotFound, StoreError
from radosmount.store.interface import ObjectKey, ObjectStat, Store
from radosmount.vfs.listing import DirectoryEntry, Listing

WINDOW_COUNT: Final = 64
# Who reads a listing slowly is told what holds by then.
FRESHNESS_S: Final = 0.5


class LookAhead:
    """Of one listing. `enter(key, stat)` makes or updates the inode; it returns whether there is
    one already that knows better than the store, when called without a stat."""

    def __init__(
        self,
        store: Store,
        listing: Listing,
        enter: Callable[[ObjectKey, ObjectStat | None], bool],
    ) -> None:
        self._store = store
        self._listing = listing
        self._enter = enter
        self._stats: dict[ObjectKey, ObjectStat | None] = {}  # None: there is none
        self._asked_s = float("-inf")

    async def has(self, entry: DirectoryEntry, index: int) -> bool:
        """Whether the entry of that number is there, and its inode right. Raises: StoreError."""
        key = entry.target
        if not isinstance(key, ObjectKey) or self._enter(key, None):
            return True
        if key not in self._stats or trio.current_time() - self._asked_s > FRESHNESS_S:
            await self._ask(index)
        found = self._stats[key]
        return found is not None and self._enter(key, found)

    async def _ask(self, index: int) -> None:
        targets = [entry.target for entry in self._listing.window(index, WINDOW_COUNT)]
        keys = [key for key in targets if isinstance(key, ObjectKey)]
        self._asked_s = trio.current_time()
        self._stats = {}
        failures: list[StoreError] = []

        async def ask(key: ObjectKey) -> None:
            try:
                self._stats[key] = await self._store.stat(key)
            except ObjectNotFound:
                self._stats[key] = None
            except StoreError as failure:
                failures.append(failure)

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(ask, key)
        if failures:
            raise failures[0]
