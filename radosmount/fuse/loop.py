"""Waiting for the next FUSE request, without a trip through trio's scheduler for each.

pyfuse3 3.5 runs a pool of worker tasks. Each waits by `_wait_fuse_readable`, reads a request and
awaits its handler; four fifths of the CPU of a request go into that wait (a lock, an epoll
registration, two task switches). This module replaces that one function.

One worker holds the reader role. While requests are there it reads one after the other, with
no switch between them. Where its handler suspends, it leaves the role to the sentinel, the one
worker that waits for the device through trio, so that a slow request never stands before the
next one. Whose handler has ended takes the role if it is free and a request is there, or comes at
once: the caller of the request before asks again, and the sentinel need not wake.

    worker ── wait_readable ──> role free? ── no ──> sentinel? ── there is one ──> parked
                                    │ yes                │ none: become it            │
                                    v                    v                            │
                              poll, spin ── none ──> wait_readable(fd) <── woken ─────┘
                                    │                    │ role free
                                    v                    v
                               read, handle <────────────┘
                                    │ suspended: hand the role over

Invariant: at most one worker has the role and at most one is the sentinel; if nobody has the role
and any worker is parked, there is a sentinel.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pyfuse3
import trio

# The private functions of pyfuse3 that are replaced: how a worker waits, and a worker's life.
WAIT_FUNCTION: Final = "_wait_fuse_readable"
WORKER_FUNCTION: Final = "_session_loop"
# Other tasks (flushes, answers of the store) get their turn at least this often: after so many
# requests, or behind one that ends so long after the turn began (of a listing, 32 take 100 ms).
REQUESTS_A_TURN: Final = 32
TURN_S: Final = 1e-3
# A lone caller on another core comes back with its next request before an idle core has been
# woken: polling that long halves its round trip, at no more CPU than the wake-up costs. Not
# while a handler waits for the store, whose answer could not come in.
SPIN_S: Final = 30e-6
_ENDED: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class RequestLoop:
    """The reader role of one session, whose requests come from `fd`.

    `after_init` is called when the first request, INIT, has been answered, before anything
    else is read.
    """

    def __init__(
        self, fd: int, after_init: Callable[[], None] | None = None, spin_s: float = SPIN_S
    ) -> None:
        self._fd = fd
        self._after_init = after_init
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._spin_s = spin_s
        self._reader: trio.lowlevel.Task | None = None
        self._sentinel: trio.lowlevel.Task | None = None
        self._parked: list[trio.lowlevel.Task] = []
        self._has_read: set[trio.lowlevel.Task] = set()
        self._waiting: set[trio.lowlevel.Task] = set()  # whose handlers wait
        self._turn_request_count = 0
        self._turn_end_s = 0.0
        self._is_closed = False
        self.request_count = 0

    async def wait_readable(self) -> bool:
        """Whether there is a request to read; False when the session ends."""
        if self._after_init is not None and self.request_count:
            self._after_init()
            self._after_init = None
        task = trio.lowlevel.current_task()
        self._waiting.discard(task)
        if self._reader is None and task in self._has_read:
            self._take_role(task)
        events = await self._poll_next() if self._reader is task else []
        while not events and not self._is_closed:
            if self._reader is task:
                self._reader = None
            if self._sentinel is None or self._sentinel is task:
                events = await self._watch(task)
            else:
                await self._park(task)
        if self._is_closed or events[0][1] & _ENDED:
            self.close()
            return False
        self.request_count += 1
        return True

    def hand_over(self) -> None:
        """The reader's handler is about to wait: let another worker read meanwhile."""
        if self._reader is None or self._reader is not trio.lowlevel.current_task():
            return
        self._waiting.add(self._reader)
        self._reader = None
        if self._sentinel is None and self._parked:
            # It is so in its name already, lest a third one becomes it before it runs.
            self._sentinel = self._parked.pop()
            trio.lowlevel.reschedule(self._sentinel)

    def close(self) -> None:
        """Wake all workers: there are no more requests."""
        self._is_closed = True
        while self._parked:
            trio.lowlevel.reschedule(self._parked.pop())

    async def _park(self, task: trio.lowlevel.Task) -> None:
        """A worker's first request gives it a buffer of 1 MiB for good: whoever has one comes
        first, so that there are no more of them than requests at a time."""

        def leave(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        if task in self._has_read:
            self._parked.append(task)
        else:
            self._parked.insert(0, task)
        await trio.lowlevel.wait_task_rescheduled(leave)

    async def _poll_next(self) -> list[tuple[int, int]]:
        """What the reader finds without giving its role up.

        Nothing between a poll that says so and the read lets the request be taken back unseen for
        long: a blocking read would stop the whole process."""
        self._turn_request_count += 1
        if self._is_turn_over():
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._begin_turn()
        may_spin = not self._waiting  # else answers of the store are due
        return self._poll.poll(0) or (self._spin() if may_spin else [])

    async def _watch(self, task: trio.lowlevel.Task) -> list[tuple[int, int]]:
        """As the sentinel, until a request is there that nobody else reads."""
        self._sentinel = task
        try:
            while not self._is_closed:
                await trio.lowlevel.wait_readable(self._fd)
                if self._reader is None and (events := self._poll.poll(0)):
                    self._take_role(task)
                    return events
        except trio.ClosedResourceError:
            self.close()
        finally:
            self._sentinel = None
        return []

    def _take_role(self, task: trio.lowlevel.Task) -> None:
        self._reader = task
        self._has_read.add(task)
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._turn_request_count = 0
        self._turn_end_s = time.perf_counter() + TURN_S

    def _is_turn_over(self) -> bool:
        is_over = self._turn_request_count >= REQUESTS_A_TURN
        return is_over or time.perf_counter() >= self._turn_end_s

    def _spin(self) -> list[tuple[int, int]]:
        if not self._spin_s:
            return []
        deadline_s = time.perf_counter() + self._spin_s
        while time.perf_counter() < deadline_s:
            events = self._poll.poll(0)
            if events:
                return events
        return []


def is_supported() -> bool:
    """Whether this is a pyfuse3 that we know."""
    return hasattr(pyfuse3, WAIT_FUNCTION) and hasattr(pyfuse3, WORKER_FUNCTION)


@contextmanager
def waiting_by(loop: RequestLoop | None) -> Iterator[None]:
    """Let pyfuse3 wait by `loop`; by itself where there is none."""
    if loop is None:
        yield
        return
    stock_wait, stock_worker = (getattr(pyfuse3, f) for f in (WAIT_FUNCTION, WORKER_FUNCTION))

    async def work(*args: object) -> None:
        """A worker ends with the session only; one that read ENODEV (unmounted between our poll
        and its read) still has the role, and would leave the others parked for ever."""
        try:
            await stock_worker(*args)
        finally:
            loop.close()

    setattr(pyfuse3, WAIT_FUNCTION, loop.wait_readable)
    setattr(pyfuse3, WORKER_FUNCTION, work)
    try:
        yield
    finally:
        setattr(pyfuse3, WAIT_FUNCTION, stock_wait)
        setattr(pyfuse3, WORKER_FUNCTION, stock_worker)


def fuse_device_fd() -> int:
    """The descriptor of the session that pyfuse3 has made: it keeps it to itself."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it may be the directory's own, closed by now
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                return int(name)
    raise LookupError("this process has no FUSE session")
