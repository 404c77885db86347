"""Stats of listed files, asked for before the kernel asks.

`ls -l`, find, rsync and rm list a directory and then ask for each file in the order of the
listing, one at a time: a round trip each. Once two of them were asked for in order, the stats
of those that follow are fetched, many at once. What was fetched answers one question, and only
for a moment; an open asks the store all the same.
"""

import weakref
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from radosmount import switching
from radosmount.background import contained
from radosmount.errors import RadosmountError
from radosmount.vfs.nodes import FileNode

PARALLEL_STAT_COUNT_MAX: Final = 16
WINDOW_COUNT_MIN: Final = 8
WINDOW_COUNT_MAX: Final = 256
# ls leaves out dot files, find those that do not match.
SKIPPED_COUNT_MAX: Final = 8


class StatAhead:
    """Of one listing. `revalidate(node)` asks the store what the object is now."""

    def __init__(
        self, nursery: trio.Nursery, revalidate: Callable[[FileNode], Awaitable[None]]
    ) -> None:
        self._nursery = nursery
        self._revalidate = revalidate
        self._nodes: list[weakref.ref[FileNode]] = []  # the kernel may forget them meanwhile
        self.listed_s = switching.current_time()  # when the listing began
        self._asked_index = -1
        self._asked_count = 0
        self._window_count = 0
        self._next_index = 0
        self._end_index = 0
        self._worker_count = 0

    def add(self, node: FileNode) -> None:
        """The next file of the listing."""
        node.stat_ahead, node.stat_ahead_index = self, len(self._nodes)
        self._nodes.append(weakref.ref(node))

    @property
    def has_been_asked(self) -> bool:
        """For any of its files."""
        return self._asked_count > 0

    @property
    def is_for_most(self) -> bool:
        """Whether who lists asks for what is listed, as far as it has been listed."""
        return 2 * self._asked_count > len(self._nodes)

    def note_asked(self, index: int) -> None:
        """The kernel asks for a file; if that is in order, go ahead of it."""
        self._asked_count += 1
        step = index - self._asked_index
        self._asked_index = index
        if not 0 <= step <= SKIPPED_COUNT_MAX:
            self._window_count = 0
            return
        if index > 0:
            self._window_count = min(
                max(2 * self._window_count, WINDOW_COUNT_MIN), WINDOW_COUNT_MAX
            )
        self._next_index = max(self._next_index, index + 1)
        if self._next_index - index > self._window_count // 2:
            return  # enough are there, or under way: tasks are started for many at a time
        self._end_index = min(index + 1 + self._window_count, len(self._nodes))
        self._start_workers()

    def _start_workers(self) -> None:
        wanted_count = min(self._end_index - self._next_index, PARALLEL_STAT_COUNT_MAX)
        while self._worker_count < wanted_count:
            self._worker_count += 1
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while self._next_index < self._end_index:
                node = self._nodes[self._next_index]()
                self._next_index += 1
                if node is not None:
                    with contained("asking ahead for stats"):
                        await self._fetch(node)
        finally:
            self._worker_count -= 1

    async def _fetch(self, node: FileNode) -> None:
        node.stat_under_way = arrival = trio.Event()
        try:
            await self._revalidate(node)
            node.fetched_ahead_s = switching.current_time()
        except RadosmountError:
            pass  # who asks for this file asks the store, and hears of it
        finally:
            node.stat_under_way = None
            arrival.set()
