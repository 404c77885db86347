"""What listed files are, asked for before they are listed.

Where a listing must tell: with `posix` a name may be a symbolic link, and the kernel takes from the
listing what it is. And where it had better: who asks for each file after it was listed, as `ls -l`,
is told all with the names, and asks no more. One that is gone by then is not listed.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from radosmount import switching
from radosmount.background import contained
from radosmount.errors import ObjectNotFound, RadosmountError, StoreFailure
from radosmount.store.interface import ObjectKey, ObjectStat, Store
from radosmount.vfs.listing import DirectoryEntry, Listing

WINDOW_COUNT: Final = 256
PARALLEL_COUNT_MAX: Final = 32
# Who reads a listing slowly is told what holds by then.
FRESHNESS_S: Final = 0.5


class Answer:
    """`stat` None: there is none. `asked_s` is trio's clock."""

    __slots__ = ("arrival", "asked_s", "failure", "is_here", "stat")

    def __init__(self) -> None:
        self.is_here = False
        self.arrival: trio.Event | None = None  # where somebody waits for it
        self.asked_s = switching.current_time()
        self.stat: ObjectStat | None = None
        self.failure: RadosmountError | None = None


class LookAhead:
    """Of one listing. `enter(key, stat, asked_s)` makes or updates the inode; without a stat it
    returns whether there is one already that knows better than the store.

    `must_know`: what cannot be asked for is not listed, but fails."""

    def __init__(
        self,
        store: Store,
        listing: Listing,
        nursery: trio.Nursery,
        enter: Callable[[ObjectKey, ObjectStat | None, float], bool],
        must_know: bool,
    ) -> None:
        self._store = store
        self._listing = listing
        self._nursery = nursery
        self._enter = enter
        self._must_know = must_know
        self._has_failed = False
        self._answers: dict[ObjectKey, Answer] = {}
        self._begin_index = self._end_index = 0  # of the entries that were asked for
        self._waiting: deque[tuple[ObjectKey, Answer]] = deque()
        self._worker_count = 0

    async def has(self, entry: DirectoryEntry, index: int) -> bool:
        """Whether the entry of that number is there, and its inode right, as far as that could be
        asked for. Raises: StoreError where it must be known."""
        key = entry.target
        if not isinstance(key, ObjectKey) or self._has_failed or self._enter(key, None, 0.0):
            return True
        answer = self._answer(key, index)
        if not answer.is_here:
            answer.arrival = answer.arrival or trio.Event()
            await answer.arrival.wait()
        if answer.failure is None:
            return answer.stat is not None and self._enter(key, answer.stat, answer.asked_s)
        if self._must_know:
            self._forget(index)  # who asks again asks the store
            raise answer.failure
        self._has_failed = True  # who wants to know asks for the file, and hears of it
        return True

    def _answer(self, key: ObjectKey, index: int) -> Answer:
        answer = self._answers.get(key)
        if answer is None or switching.current_time() - answer.asked_s > FRESHNESS_S:
            self._forget(index)
        if self._end_index - index <= WINDOW_COUNT // 2:
            self._ask(index)
        return self._answers[key]

    def _ask(self, index: int) -> None:
        """For those up to a window behind that number; what was listed is forgotten."""
        for entry in self._listing.window(self._begin_index, index - self._begin_index):
            if isinstance(entry.target, ObjectKey):
                self._answers.pop(entry.target, None)
        self._begin_index = index
        count = index + WINDOW_COUNT - self._end_index
        for entry in self._listing.window(self._end_index, count):
            self._end_index += 1
            if isinstance(entry.target, ObjectKey):
                answer = self._answers[entry.target] = Answer()
                self._waiting.append((entry.target, answer))
        while self._worker_count < min(len(self._waiting), PARALLEL_COUNT_MAX):
            self._worker_count += 1
            self._nursery.start_soon(self._work)

    def _forget(self, index: int) -> None:
        self._answers.clear()
        self._waiting.clear()
        self._begin_index = self._end_index = index

    async def _work(self) -> None:
        try:
            while self._waiting:
                with contained("asking for what is listed"):
                    await self._fetch(*self._waiting.popleft())
        finally:
            self._worker_count -= 1

    async def _fetch(self, key: ObjectKey, answer: Answer) -> None:
        answer.asked_s = switching.current_time()
        try:
            answer.stat = await self._store.stat(key)
        except ObjectNotFound:
            pass
        except RadosmountError as failure:
            answer.failure = failure
        except Exception as bug:
            answer.failure = StoreFailure(repr(bug))
            raise
        finally:
            answer.is_here = True
            if answer.arrival is not None:
                answer.arrival.set()
