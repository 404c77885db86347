"""Room for the bytes of files, in a budget, so that some cannot take all of it from the others.

A dead OSD holds the bytes of its files until they have timed out, and afterwards they are kept. So
a quarter of a budget is for nobody, until some files are stalled: then it is for those that are not
(docs/decisions/0026).
"""

from typing import Final

import trio

from radosmount import switching
from radosmount.cache.budget import Budget
from radosmount.cache.file import CachedFile
from radosmount.cache.stalls import Stalls
from radosmount.errors import ObjectNotFound, StoreError
from radosmount.store.interface import Store

COMMON_QUARTERS: Final = 3
# Who waits may have to be asked about, when others turn out to be stalled.
RECHECK_S: Final = 2.0


class Room:
    def __init__(self, store: Store, budget: Budget, stalls: Stalls) -> None:
        self._store = store
        self._budget = budget
        self._common_limit = budget.limit_bytes * COMMON_QUARTERS // 4
        self._stalls = stalls

    def try_take(self, file: CachedFile, byte_count: int) -> bool:
        """Whether there is room at once. What is taken goes back by `Budget.release`."""
        limit = self._limit(file) if self._stalls.are_there else self._common_limit
        return self._budget.try_reserve(byte_count, limit)

    async def take(self, file: CachedFile, byte_count: int) -> None:
        """Wait for it. Cancelling takes nothing."""
        while not self.try_take(file, byte_count):
            if not self._stalls.has(file) and not self._stalls.is_heard(file):
                await self._probe(file)
            with trio.move_on_after(RECHECK_S) as scope:
                await self._budget.reserve(byte_count, lambda: self._limit(file))
            if not scope.cancelled_caught:
                return

    def _limit(self, file: CachedFile) -> int:
        stalls = self._stalls
        is_privileged = stalls.are_there and not stalls.has(file) and stalls.is_heard(file)
        return self._budget.limit_bytes if is_privileged else self._common_limit

    async def _probe(self, file: CachedFile) -> None:
        """Hear whether the file's OSD answers: by a question that takes no room."""
        self._stalls.asked(file, switching.current_time())
        is_well = False
        try:
            await self._store.stat(file.key)
            is_well = True
        except ObjectNotFound:
            is_well = True
        except StoreError:
            pass  # who has bytes to store there will hear of it by those
        finally:
            self._stalls.answered(file, switching.current_time(), is_well)
