"""The order of operations on one object: each starts when the one before it has ended.

A flush, a remove, a rename and an xattr change of one object never overlap, so no late write
brings a removed object back. The operations run in tasks of the background nursery: they
belong to nobody who could be cancelled half way; who asked for one waits on its ticket.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import outcome
import trio

from radosmount.errors import DeadlineExceeded
from radosmount.store.interface import ObjectKey

T = TypeVar("T")


class Ticket(Generic[T]):
    """One operation that was handed in: done or not, and how it ended."""

    __slots__ = ("_event", "_operation", "_outcome")

    def __init__(self, operation: Callable[[], Awaitable[T]]) -> None:
        self._operation = operation
        self._event = trio.Event()
        self._outcome: outcome.Outcome[T] | None = None

    @property
    def is_done(self) -> bool:
        return self._outcome is not None

    async def run(self) -> None:
        try:
            self._outcome = await outcome.acapture(self._operation)
        finally:
            self._event.set()
        if isinstance(self._outcome, outcome.Error) and not isinstance(
            self._outcome.error, Exception
        ):
            raise self._outcome.error  # Cancelled belongs to the nursery

    async def wait(self) -> None:
        await self._event.wait()

    async def result(self) -> T:
        """Wait; return what the operation returned or raise what it raised, to any number."""
        await self._event.wait()
        if isinstance(self._outcome, outcome.Error):
            raise self._outcome.error
        assert isinstance(self._outcome, outcome.Value)
        result: T = self._outcome.value  # unwrap() would serve one waiter only
        return result


async def settle(
    ticket: Ticket[T], timeout_s: float, progress_s: Callable[[], float], what: str
) -> T:
    """Wait for a ticket's result, as long as something is acknowledged now and then.

    `progress_s` tells when that was last (trio's clock); the wait itself starts as progress.
    Raises: DeadlineExceeded; the operation goes on all the same.
    """
    started_s = trio.current_time()
    while not ticket.is_done:
        deadline_s = max(started_s, progress_s()) + timeout_s
        if trio.current_time() >= deadline_s:
            raise DeadlineExceeded(f"{what}: nothing was acknowledged for {timeout_s:g} s")
        with trio.move_on_at(deadline_s):
            await ticket.wait()
    return await ticket.result()


class Progress:
    """When an operation was last acknowledged anything (trio's clock)."""

    def __init__(self) -> None:
        self._last_s = trio.current_time()

    def note(self) -> None:
        self._last_s = trio.current_time()

    def last_s(self) -> float:
        return self._last_s


class Sequencer:
    """The queues of all objects; one that is empty takes no memory."""

    def __init__(self, nursery: trio.Nursery, timeout_s: float) -> None:
        self._nursery = nursery
        self._timeout_s = timeout_s
        self._queues: dict[ObjectKey, deque[Ticket[object]]] = {}

    async def run(self, key: ObjectKey, operation: Callable[[Progress], Awaitable[T]]) -> T:
        """Submit `operation` and wait for its result, as long as it notes progress.

        Raises: DeadlineExceeded, or what it raises.
        """
        progress = Progress()
        ticket = self.submit(key, lambda: operation(progress))
        return await settle(ticket, self._timeout_s, progress.last_s, repr(key.name))

    def submit(self, key: ObjectKey, operation: Callable[[], Awaitable[T]]) -> Ticket[T]:
        """Run `operation` when everything handed in before for `key` has ended."""
        ticket = Ticket(operation)
        queue = self._queues.get(key)
        if queue is not None:
            queue.append(ticket)  # type: ignore[arg-type]
        else:
            self._queues[key] = deque([ticket])  # type: ignore[list-item]
            self._nursery.start_soon(self._work, key)
        return ticket

    def is_idle(self, key: ObjectKey) -> bool:
        return key not in self._queues

    async def _work(self, key: ObjectKey) -> None:
        queue = self._queues[key]
        try:
            while queue:
                await queue[0].run()
                queue.popleft()
        finally:
            del self._queues[key]
