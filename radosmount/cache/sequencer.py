"""The order of operations on one object: each starts when the one before it has ended.

A flush, a remove, a rename and an xattr change of one object never overlap, so no late write
brings a removed object back. The operations run in tasks of the background nursery: they
belong to nobody who could be cancelled half way; who asked for one waits on its ticket.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import trio

from radosmount import switching
from radosmount.cache.ticket import Deadlines, Progress, Ticket
from radosmount.store.interface import ObjectKey

T = TypeVar("T")


class _Queue(deque[Ticket[Any]]):
    """What was handed in for one object. `progress`: of the operation whose turn it is."""

    def __init__(self, ticket: Ticket[Any]) -> None:
        super().__init__((ticket,))
        self.progress = Progress()


class _JointProgress(Progress):
    """That of several queues, as long as they are there."""

    def __init__(self, queues: Mapping[ObjectKey, _Queue], keys: tuple[ObjectKey, ...]) -> None:
        super().__init__()
        self._queues = queues
        self._keys = keys

    def note(self) -> None:
        super().note()
        for queue in self._present():
            queue.progress.note()

    def last_s(self) -> float:
        return max([super().last_s(), *(queue.progress.last_s() for queue in self._present())])

    def _present(self) -> list[_Queue]:
        return [self._queues[key] for key in self._keys if key in self._queues]


# Tasks that are kept for the next operation: starting one costs more than waking one.
SPARE_TASK_COUNT_MAX: Final = 32


class Sequencer:
    """The queues of all objects; one that is empty takes no memory."""

    def __init__(self, nursery: trio.Nursery, timeout_s: float) -> None:
        self._nursery = nursery
        self._deadlines = Deadlines(nursery, timeout_s)
        self._queues: dict[ObjectKey, _Queue] = {}
        self._spare: list[trio.lowlevel.Task] = []

    async def run(
        self,
        key: ObjectKey,
        operation: Callable[[Progress], Awaitable[T]],
    ) -> T:
        """Submit `operation` and wait for its result, as long as it, or one before it in the same
        queue, makes progress.

        Raises: DeadlineExceeded, or what it raises.
        """
        ticket = self.submit(key, lambda: operation(progress))
        progress = self._queues[key].progress
        return await self.settle(ticket, progress.last_s, key)

    async def run_in_both(
        self, key: ObjectKey, other: ObjectKey, operation: Callable[[Progress], Awaitable[T]]
    ) -> T:
        """The same in the turns of two objects. All who do so take them in one order, so there is
        no circle of waiting.

        Raises: DeadlineExceeded, named after `key`; what the operation raises.
        """
        first, second = sorted((key, other))
        progress = _JointProgress(self._queues, (first, second))

        async def in_first_turn() -> T:
            return await self.submit(second, lambda: operation(progress)).result()

        return await self.settle(self.submit(first, in_first_turn), progress.last_s, key)

    def settle(
        self,
        ticket: Ticket[T],
        progress_s: Callable[[], float],
        key: ObjectKey,
        since_s: float | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Wait for a ticket's result; see `Deadlines.settle`."""
        return self._deadlines.settle(ticket, progress_s, key, since_s)

    def note_progress(self, key: ObjectKey) -> None:
        """The operation whose turn it is was acknowledged something."""
        if (queue := self._queues.get(key)) is not None:
            queue.progress.note()

    def submit(self, key: ObjectKey, operation: Callable[[], Awaitable[T]]) -> Ticket[T]:
        """Run `operation` when everything handed in before for `key` has ended."""
        ticket = Ticket(operation)
        queue = self._queues.get(key)
        if queue is not None:
            queue.append(ticket)
        else:
            self._queues[key] = _Queue(ticket)
            self._start(key)
        return ticket

    def is_idle(self, key: ObjectKey) -> bool:
        return key not in self._queues

    def _start(self, key: ObjectKey) -> None:
        if self._spare:
            switching.wake(self._spare.pop(), key)
        else:
            self._nursery.start_soon(self._work, key)

    async def _work(self, key: ObjectKey) -> None:
        while True:
            queue = self._queues[key]
            try:
                while queue:
                    await queue[0].run()
                    queue.popleft()
            finally:
                del self._queues[key]
            if len(self._spare) >= SPARE_TASK_COUNT_MAX:
                return
            key = await self._next()

    async def _next(self) -> ObjectKey:
        """The key of a queue that has begun."""
        task = switching.current_task()
        self._spare.append(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._spare.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        key: ObjectKey = await switching.park(leave)
        return key
