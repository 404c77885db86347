"""Blocking calls on a bounded pool of our own threads, awaited from trio.

Not `trio.to_thread`, which costs twice as much CPU a call (docs/decisions/0001), and not
librados's aio, whose callbacks crash in several ways and cannot tell an object's version.

    trio thread                            our threads
    call() -> waiting, by lane
    _dispatch() -> a worker's inbox ─────> function(state)
    _drain() <- one wake-up for many <──── done.append(...)

Invariants:
- All bookkeeping happens on the trio thread. A thread only takes from its own inbox and appends
  to `_done`; its `state` is its own.
- The worker that was busy last is the first to be busy again: a lone caller's calls all run on
  one warm thread.
- A droppable call is answered within `call_timeout_s`, even if it stands behind calls to a dead
  pool; any other is answered when it has ended, since until then it may still be applied.
- At most `thread_count` calls run at once, and at most `lane_thread_count_max` of one lane (a
  pool), so that a dead pool leaves threads for the others. Lanes take turns; a lane is FIFO.
"""

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import outcome
import trio

from radosmount.errors import Disconnected, StoreError, TimedOut

# How late a time-out may be noticed.
_EXPIRY_INTERVAL_S = 1.0


class Closable(Protocol):
    def close(self) -> None: ...


S = TypeVar("S", bound=Closable)
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Call:
    lane: "_Lane"
    function: Callable[[Any], Any]
    task: trio.lowlevel.Task | None  # None: the answer was abandoned
    deadline_s: float


@dataclass(eq=False, slots=True)
class _Lane:
    key: Hashable
    waiting: dict[_Call, None] = field(default_factory=dict)  # in order; O(1) to withdraw
    running_count: int = 0
    is_ready: bool = False  # it stands in `Executor._ready`


@dataclass(eq=False, slots=True)
class _Worker:
    """One thread. None in its inbox ends it."""

    inbox: "queue.SimpleQueue[_Call | None]" = field(default_factory=queue.SimpleQueue)


class Executor(Generic[S]):
    """Runs `function(state)` on one of its threads; `state` is made and closed by that thread.

    To be built and used inside a trio run.
    """

    def __init__(
        self,
        name: str,
        make_state: Callable[[], S],
        thread_count: int,
        lane_thread_count_max: int,
        call_timeout_s: float,
    ) -> None:
        assert 1 <= lane_thread_count_max <= thread_count
        self._name = name
        self._make_state = make_state
        self._thread_count_max = thread_count
        self._lane_running_count_max = lane_thread_count_max
        self._call_timeout_s = call_timeout_s
        self._droppable: dict[_Call, None] = {}  # that wait for their answer, oldest first
        self._token = trio.lowlevel.current_trio_token()
        self._lanes: dict[Hashable, _Lane] = {}
        self._ready: collections.deque[_Lane] = collections.deque()
        self._running_count = 0
        self._workers: list[_Worker] = []
        self._idle_workers: list[_Worker] = []
        self._live_thread_count = 0
        self._done: collections.deque[tuple[_Worker, _Call | None, outcome.Outcome[Any] | None]]
        self._done = collections.deque()
        self._is_wake_up_due = False
        self._is_closed = False
        self._idle = trio.Event()  # set while closed and nothing runs or waits
        self._ended = trio.Event()  # set once closed and no thread lives
        trio.lowlevel.spawn_system_task(self._expire)

    async def call(
        self, lane: Hashable, function: Callable[[S], T], *, is_droppable: bool = False
    ) -> T:
        """Run `function` and return or raise what it does.

        Cancelling abandons the answer at once, never the operation; but a call that has not
        begun is dropped if `is_droppable` (a read, of which nothing can be seen).
        Raises: Disconnected after `aclose`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = self._submit(lane, function, trio.lowlevel.current_task())
        if is_droppable:
            self._droppable[call] = None

        def abandon(_: object) -> trio.lowlevel.Abort:
            self._abandon(call)
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abandon)
        return result

    async def aclose(self, timeout_s: float) -> bool:
        """Take no more calls, wait for those there are, end the threads.

        False if some call still runs after `timeout_s`: a blocked call of librados cannot be
        ended, so the caller must leave by `os._exit`. Calls still queued then get Disconnected.
        """
        self._is_closed = True
        with trio.move_on_after(timeout_s, shield=True) as deadline:
            self._settle_idle()
            await self._idle.wait()
            for worker in self._workers:
                worker.inbox.put(None)
            self._settle_ended()
            await self._ended.wait()
        if deadline.cancelled_caught:
            self._refuse_waiting()
        return not deadline.cancelled_caught

    def _submit(
        self, lane_key: Hashable, function: Callable[[S], object], task: trio.lowlevel.Task
    ) -> _Call:
        if self._is_closed:
            raise Disconnected("the connection is closed")
        lane = self._lanes.setdefault(lane_key, _Lane(lane_key))
        call = _Call(lane, function, task, time.monotonic() + self._call_timeout_s)
        lane.waiting[call] = None
        self._settle_lane(lane)
        self._dispatch()
        return call

    def _abandon(self, call: _Call) -> None:
        """Nobody waits for the answer; if none needs the call either, it does not begin."""
        call.task = None
        if call in self._droppable:
            del self._droppable[call]
            if call in call.lane.waiting:
                del call.lane.waiting[call]
                self._settle_lane(call.lane)
                self._settle_idle()

    async def _expire(self) -> None:
        """A system task: for as long as there is a loop to answer on."""
        while not self._ended.is_set():
            await trio.sleep(_EXPIRY_INTERVAL_S)
            now_s = time.monotonic()
            while (call := next(iter(self._droppable), None)) and now_s >= call.deadline_s:
                task = call.task
                self._abandon(call)
                if task is not None:
                    refusal = TimedOut(f"no answer in {self._call_timeout_s:g} s")
                    trio.lowlevel.reschedule(task, outcome.Error(refusal))

    def _dispatch(self) -> None:
        while self._running_count < self._thread_count_max and self._ready:
            lane = self._ready.popleft()
            lane.is_ready = False
            if not lane.waiting:  # its calls were withdrawn
                continue
            call = next(iter(lane.waiting))
            del lane.waiting[call]
            lane.running_count += 1
            self._running_count += 1
            self._settle_lane(lane)
            worker = self._idle_workers.pop() if self._idle_workers else self._new_worker()
            worker.inbox.put(call)

    def _settle_lane(self, lane: _Lane) -> None:
        """Let the lane stand in line while it may run something; forget it when unused."""
        if not lane.waiting and lane.running_count == 0:
            self._lanes.pop(lane.key, None)
        is_runnable = bool(lane.waiting) and lane.running_count < self._lane_running_count_max
        if is_runnable and not lane.is_ready:
            lane.is_ready = True
            self._ready.append(lane)

    def _new_worker(self) -> _Worker:
        worker = _Worker()
        name = f"{self._name}-{len(self._workers)}"
        self._workers.append(worker)
        self._live_thread_count += 1
        # daemon: a thread blocked in librados must not keep the process from ending.
        threading.Thread(target=self._work, args=(worker,), name=name, daemon=True).start()
        return worker

    def _work(self, worker: _Worker) -> None:
        """The life of one thread. Whatever a call raises is its caller's."""
        state: S | None = None
        while (call := worker.inbox.get()) is not None:
            answer: outcome.Outcome[Any]
            try:
                if state is None:
                    state = self._make_state()
                answer = outcome.Value(call.function(state))
            except StoreError as failure:
                answer = outcome.Error(_without_frames(failure))
            except BaseException as failure:
                answer = outcome.Error(failure)
            self._hand_over(worker, call, answer)
            del call, answer  # else the last call's data lives until the next one
        if state is not None:
            state.close()
        self._hand_over(worker, None, None)

    def _hand_over(
        self, worker: _Worker, call: _Call | None, answer: outcome.Outcome[Any] | None
    ) -> None:
        self._done.append((worker, call, answer))
        # `_drain` clears the flag before it looks, so an answer appended here is seen; two
        # threads that both find it clear wake the loop once too often, which is harmless.
        if not self._is_wake_up_due:
            self._is_wake_up_due = True
            with contextlib.suppress(trio.RunFinishedError):  # nobody is left to answer
                self._token.run_sync_soon(self._drain)

    def _drain(self) -> None:
        self._is_wake_up_due = False
        while self._done:
            worker, call, answer = self._done.popleft()
            if call is None or answer is None:
                self._live_thread_count -= 1
            else:
                self._idle_workers.append(worker)
                self._finish(call, answer)
        self._dispatch()
        self._settle_idle()
        self._settle_ended()

    def _finish(self, call: _Call, answer: outcome.Outcome[Any]) -> None:
        self._running_count -= 1
        call.lane.running_count -= 1
        self._droppable.pop(call, None)
        self._settle_lane(call.lane)
        if call.task is not None:
            trio.lowlevel.reschedule(call.task, answer)

    def _settle_idle(self) -> None:
        if self._is_closed and self._running_count == 0 and not self._ready:
            self._idle.set()

    def _settle_ended(self) -> None:
        if self._idle.is_set() and self._live_thread_count == 0:
            self._ended.set()

    def _refuse_waiting(self) -> None:
        for lane in list(self._lanes.values()):
            for call in list(lane.waiting):
                del lane.waiting[call]
                self._droppable.pop(call, None)
                if call.task is not None:
                    refusal = Disconnected("the connection is closed")
                    trio.lowlevel.reschedule(call.task, outcome.Error(refusal))


def _without_frames(failure: StoreError) -> StoreError:
    """Strip what pins the call's data: a file remembers its error for long."""
    failure.__cause__ = failure.__context__ = None
    return failure.with_traceback(None)
