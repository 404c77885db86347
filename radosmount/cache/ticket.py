"""Waiting for an operation that runs in a task of its own, and not for ever.

A wait costs one suspension: no event, no cancel scope. What ends it is the operation, or one
task that looks after the deadlines of all.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar, TypeVarTuple

import outcome
import trio

from radosmount import switching
from radosmount.background import keep_running
from radosmount.errors import DeadlineExceeded
from radosmount.store.interface import ObjectKey

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Long enough for an OSD that works again to show it.
WAIT_S_MIN: Final = 3.0


class Ticket(Generic[T]):
    """One operation that was handed in: done or not, and how it ended."""

    __slots__ = ("_arguments", "_failure", "_operation", "_result", "_waiting", "is_done")

    def __init__(self, operation: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> None:
        self._operation: Callable[..., Awaitable[T]] = operation
        self._arguments = arguments
        self._result: T
        self._failure: BaseException | None = None
        self._waiting: list[trio.lowlevel.Task] = []
        self.is_done = False

    async def run(self) -> None:
        try:
            self._result = await self._operation(*self._arguments)
        except BaseException as failure:
            frames = failure.__traceback__
            # Ours would hold this ticket, and so the failure itself.
            self._failure = failure.with_traceback(frames and frames.tb_next)
            if not isinstance(failure, Exception):
                raise  # Cancelled belongs to the nursery
        finally:
            self.is_done = True
            while self._waiting:
                switching.wake(self._waiting.pop())

    def done(self) -> Awaitable[None]:
        """To be awaited at once, while it is not done. Raises: what `interrupt` is given."""
        task = switching.current_task()
        self._waiting.append(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        return switching.park(leave)

    def interrupt(self, task: trio.lowlevel.Task, failure: Exception) -> None:
        """End that task's wait, unless it has ended; the operation goes on."""
        if task in self._waiting:
            self._waiting.remove(task)
            switching.wake(task, outcome.Error(failure))

    async def result(self) -> T:
        """Wait; return what the operation returned or raise what it raised, to any number."""
        if not self.is_done:
            await self.done()
        return self.answer()

    def answer(self) -> T:
        """The same of one that is done."""
        if self._failure is not None:
            raise self._failure
        return self._result


class _Wait(NamedTuple):
    ticket: Ticket[Any]
    key: ObjectKey
    started_s: float
    since_s: float
    progress_s: Callable[[], float]


class Deadlines:
    """Waits that end once nothing was acknowledged for `timeout_s`. Times are trio's clock.

    One task ends them. Who begins to wait need not wake it, where others are due before: so are
    most of those that wait already, since progress only moves a deadline on.
    """

    def __init__(self, nursery: trio.Nursery, timeout_s: float) -> None:
        self._nursery = nursery
        self._timeout_s = timeout_s
        self._waits: dict[trio.lowlevel.Task, _Wait] = {}
        self._is_looked_after = False
        self._sleep = trio.CancelScope()
        self._sleeps_until_s = math.inf  # its deadline

    async def settle(
        self,
        ticket: Ticket[T],
        progress_s: Callable[[], float],
        key: ObjectKey,
        since_s: float | None = None,
    ) -> T:
        """Wait for a ticket's result, as long as something is acknowledged now and then.

        `progress_s` tells when that was last; the wait itself starts as progress, or else has
        been going on since `since_s`.
        Raises: DeadlineExceeded, not before `WAIT_S_MIN`; the operation goes on all the same.
        """
        if not ticket.is_done:
            task, now_s = switching.current_task(), switching.current_time()
            begun_s = now_s if since_s is None else since_s
            self._waits[task] = wait = _Wait(ticket, key, now_s, begun_s, progress_s)
            if not self._is_looked_after or begun_s + self._timeout_s < self._sleeps_until_s:
                self._look_after(wait)
            try:
                await ticket.done()
            finally:
                self._waits.pop(task, None)
        return ticket.answer()

    def _look_after(self, wait: _Wait) -> None:
        """It may be due before all others."""
        if not self._is_looked_after:
            self._is_looked_after = True
            self._nursery.start_soon(keep_running, "ending waits", self._end_overdue)
        else:
            self._sleeps_until_s = min(self._sleeps_until_s, self._deadline_s(wait))
            self._sleep.deadline = self._sleeps_until_s

    async def _end_overdue(self) -> None:
        """Ends when nobody waits; it may sleep on for one time-out before it notices."""
        while self._waits:
            self._sleeps_until_s = min(map(self._deadline_s, self._waits.values()))
            with trio.CancelScope(deadline=self._sleeps_until_s) as self._sleep:
                await trio.sleep_forever()
            now_s = switching.current_time()
            for task, wait in list(self._waits.items()):
                if self._deadline_s(wait) <= now_s:
                    self._interrupt(task, wait)
        self._is_looked_after = False

    def _deadline_s(self, wait: _Wait) -> float:
        deadline_s = max(wait.since_s, wait.progress_s()) + self._timeout_s
        return max(deadline_s, wait.started_s + min(WAIT_S_MIN, self._timeout_s))

    def _interrupt(self, task: trio.lowlevel.Task, wait: _Wait) -> None:
        del self._waits[task]
        text = f"{wait.key.name!r}: nothing was acknowledged for {self._timeout_s:g} s"
        wait.ticket.interrupt(task, DeadlineExceeded(text))


class Progress:
    """When an operation was last acknowledged anything (trio's clock)."""

    noted_s = -math.inf

    def note(self) -> None:
        self.noted_s = switching.current_time()

    def last_s(self) -> float:
        return self.noted_s
