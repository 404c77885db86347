"""The order of operations on one object: each starts when the one before it has ended.

A flush, a remove, a rename and an xattr change of one object never overlap, so no late write
brings a removed object back. The operations run in tasks of the background nursery: they
belong to nobody who could be cancelled half way; who asked for one waits on its ticket.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from radosmount import switching
from radosmount.cache.ticket import Deadlines, Progress, Ticket
from radosmount.store.interface import ObjectKey

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Queue(deque[Ticket[Any]], Progress):
    """What was handed in for one object. The progress is of the operation whose turn it is."""


class _JointProgress(Progress):
    """That of several queues, as long as they are there."""

    def __init__(self, queues: Mapping[ObjectKey, _Queue], keys: tuple[ObjectKey, ...]) -> None:
        self._queues = queues
        self._keys = keys

    def note(self) -> None:
        self.noted_s = now_s = switching.current_time()
        for key in self._keys:
            if key in self._queues:
                self._queues[key].noted_s = now_s

    def last_s(self) -> float:
        present = [self._queues[key].noted_s for key in self._keys if key in self._queues]
        return max([self.noted_s, *present])


# Tasks that are kept for the next operation: starting one costs more than waking one.
SPARE_TASK_COUNT_MAX: Final = 32


class Sequencer:
    """The queues of all objects; one that is empty takes no memory."""

    def __init__(self, nursery: trio.Nursery, timeout_s: float) -> None:
        self._nursery = nursery
        self._queues: dict[ObjectKey, _Queue] = {}
        self.settle: Final = Deadlines(nursery, timeout_s).settle  # to wait for a ticket's result
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
        queue = self._queue(key)
        ticket = Ticket(operation, queue)
        queue.append(ticket)
        return await self.settle(ticket, queue.last_s, key)

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
            return await self.submit(second, operation, progress).result()

        return await self.settle(self.submit(first, in_first_turn), progress.last_s, key)

    def note_progress(self, key: ObjectKey) -> None:
        """The operation whose turn it is was acknowledged something."""
        if (queue := self._queues.get(key)) is not None:
            queue.note()

    def submit(
        self, key: ObjectKey, operation: Callable[[*Ts], Awaitable[T]], *arguments: *Ts
    ) -> Ticket[T]:
        """Run `operation` when everything handed in before for `key` has ended."""
        ticket = Ticket(operation, *arguments)
        self._queue(key).append(ticket)
        return ticket

    def is_idle(self, key: ObjectKey) -> bool:
        return key not in self._queues

    def _queue(self, key: ObjectKey) -> _Queue:
        """To be appended to at once: it is worked off from the next suspension on."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue()
            if self._spare:
                switching.wake(self._spare.pop(), key)
            else:
                self._nursery.start_soon(self._work, key)
        return queue

    async def _work(self, key: ObjectKey) -> None:
        task = switching.current_task()

        def leave(_: object) -> trio.lowlevel.Abort:
            self._spare.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

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
            self._spare.append(task)
            key = await switching.park(leave)  # until another queue has begun
