"""Which operations may be in flight: bounds, and the order of those that wait.

Pure: no I/O, no awaits, no clock. librados would block its caller, the loop, at bounds of its
own, so we stay below them; and one dead pool must leave room for the others. Operations of one
pool are a *lane*: bounded in number and bytes, and FIFO. Lanes take turns.

Invariant: an operation runs, waits in its lane, or is not known here.
"""

import collections
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar


class Admitted(Protocol):
    """What is admitted; `lane` and `is_running` are ours, `byte_count` is set before."""

    lane: "Lane[Any] | None"
    byte_count: int
    is_running: bool


A = TypeVar("A", bound=Admitted)


@dataclass(eq=False, slots=True)
class Lane(Generic[A]):
    key: Hashable
    waiting: dict[A, None] = field(default_factory=dict)  # in order; O(1) to withdraw
    running_count: int = 0
    running_bytes: int = 0
    is_ready: bool = False  # it stands in `Admission._ready`


@dataclass(frozen=True, slots=True)
class Bounds:
    """An operation that alone exceeds a bound of bytes runs when nothing else does there."""

    lane_count_max: int
    lane_bytes_max: int
    bytes_max: int  # of all lanes together


class Admission(Generic[A]):
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lanes: dict[Hashable, Lane[A]] = {}
        self._ready: collections.deque[Lane[A]] = collections.deque()  # those that could run one
        self._running_bytes = 0
        self._running_count = 0
        self._waiting_count = 0

    @property
    def is_idle(self) -> bool:
        return self._running_count == 0 and self._waiting_count == 0

    def enter(self, lane_key: Hashable, operation: A) -> bool:
        """Whether it may run now; else `leave` or `withdraw` will tell."""
        lane = self._lanes.get(lane_key)
        if lane is None:
            lane = self._lanes[lane_key] = Lane(lane_key)
        operation.lane = lane
        if not self._waiting_count and self._has_room(lane, operation):
            self._run(lane, operation)
            return True
        lane.waiting[operation] = None
        self._waiting_count += 1
        self._settle(lane)
        started = self._started()
        assert started in ([], [operation]), "who had room before would run by now"
        return bool(started)

    def leave(self, operation: A) -> list[A]:
        """It runs no more. Returns those that run now instead."""
        lane = operation.lane
        assert lane is not None, "it has not entered"
        assert operation.is_running, "it does not run"
        operation.is_running = False
        lane.running_count -= 1
        lane.running_bytes -= operation.byte_count
        self._running_count -= 1
        self._running_bytes -= operation.byte_count
        if not self._waiting_count:
            self._forget_if_unused(lane)
            return []
        self._settle(lane)
        return self._started()

    def withdraw(self, operation: A) -> bool:
        """Whether it still waited, and now does not. Others may have room then: see `started`."""
        lane = operation.lane
        if lane is None or operation not in lane.waiting:
            return False
        del lane.waiting[operation]
        self._waiting_count -= 1
        self._forget_if_unused(lane)
        return True

    def withdraw_all(self) -> list[A]:
        waiting = [operation for lane in self._lanes.values() for operation in lane.waiting]
        for operation in waiting:
            self.withdraw(operation)
        return waiting

    def started(self) -> list[A]:
        """Those that run now, after `withdraw`: a large one may have stood before them."""
        for lane in list(self._lanes.values()):
            self._settle(lane)
        return self._started()

    def _started(self) -> list[A]:
        started = []
        while self._ready:
            lane = self._ready[0]
            operation = next(iter(lane.waiting), None)
            if operation is not None and not self._has_total_room(operation):
                break  # nothing passes it, or a large one would wait for ever
            self._ready.popleft()
            lane.is_ready = False
            if operation is not None:
                del lane.waiting[operation]
                self._waiting_count -= 1
                self._run(lane, operation)
                started.append(operation)
            self._settle(lane)
        return started

    def _run(self, lane: Lane[A], operation: A) -> None:
        operation.is_running = True
        lane.running_count += 1
        lane.running_bytes += operation.byte_count
        self._running_count += 1
        self._running_bytes += operation.byte_count

    def _settle(self, lane: Lane[A]) -> None:
        """Let the lane stand in line while it could run its first."""
        first = next(iter(lane.waiting), None)
        if first is None:
            self._forget_if_unused(lane)
        elif not lane.is_ready and self._has_lane_room(lane, first):
            lane.is_ready = True
            self._ready.append(lane)

    def _forget_if_unused(self, lane: Lane[A]) -> None:
        # Perhaps it was before, and another lane of that key is there by now.
        if not lane.waiting and not lane.running_count and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def _has_room(self, lane: Lane[A], operation: A) -> bool:
        return self._has_lane_room(lane, operation) and self._has_total_room(operation)

    def _has_lane_room(self, lane: Lane[A], operation: A) -> bool:
        if lane.running_count == 0:
            return True
        return (
            lane.running_count < self._bounds.lane_count_max
            and lane.running_bytes + operation.byte_count <= self._bounds.lane_bytes_max
        )

    def _has_total_room(self, operation: A) -> bool:
        total = self._running_bytes + operation.byte_count
        return total <= self._bounds.bytes_max or self._running_bytes == 0
