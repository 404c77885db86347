"""Who goes on when: waking tasks that wait for each other, as cheaply as can be.

A request passes through several tasks: who answers it waits for who has the object's turn, and
that one for the store. By trio each handing over is a round of its scheduler, with a look at
all descriptors and deadlines; all of them together cost more than what the tasks do.

While a mount serves, `Pump` (compiled, _switching.pyx) waits in trio's place: for requests, for the
answers of the store, and for trio's own epoll. It steps the tasks that `wake` names one after the
other, and lets trio have a round where any other task is ready, or a deadline has come. Without
it (tests, the end, no compiler) all this is trio's.

    park(abort) <── wake(task)          a task that waits for another
    attend(fd, take)                    what is called when a descriptor is readable

`current_time` and `current_task` are trio's, at a tenth of the cost: both are asked for many times
a request. `is_cancelled`: whether the current task would not get past a checkpoint.

Invariant: who waits by `park` is woken by `wake`, once, or by trio's cancelling; nobody else.
"""

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import outcome
import trio

try:
    from radosmount import _switching
except (ImportError, AttributeError):  # not built, or another trio than we know
    _switching = None  # type: ignore[assignment]

# Descriptors that are waited for by trio, for want of a pump.
_waited_for: Final[set[int]] = set()

Abort = Callable[[Any], trio.lowlevel.Abort]

if _switching is not None:
    park = _switching.park
    wake = _switching.wake
    current_task = _switching.current_task
    current_time = _switching.current_time
    is_cancelled = _switching.is_cancelled
else:
    current_task = trio.lowlevel.current_task
    current_time = trio.current_time

    def is_cancelled() -> bool:
        return trio.current_effective_deadline() == -math.inf

    def park(abort: Abort) -> Awaitable[Any]:
        """Wait until `wake`, and return what it sends. `abort`: see `wait_task_rescheduled`."""
        return trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 # by the caller

    def wake(task: trio.lowlevel.Task, sent: object = None) -> None:
        """Let a task that is parked go on: `park` returns `sent`, or raises it if that is an
        outcome.Error. Only from the trio thread."""
        is_error = isinstance(sent, outcome.Error)
        trio.lowlevel.reschedule(task, sent if is_error else outcome.Value(sent))


def is_supported() -> bool:
    """Whether a pump can run here: it is built, and trio's inside is what it was. Needs trio."""
    if _switching is None:
        return False
    task = trio.lowlevel.current_task()
    runner: Any = getattr(_switching.context(), "runner", None)
    of_task = ("coro", "context", "_abort_func", "_cancel_status")
    of_runner = ("deadlines", "io_manager", "clock", "task_exited", "reschedule")
    return (
        all(hasattr(task, name) for name in of_task)
        and all(hasattr(runner, name) for name in of_runner)
        and hasattr(runner.io_manager, "_epoll")
        and isinstance(getattr(runner.deadlines, "_heap", None), list)
    )


async def attend(fd: int, take: Callable[[bool], object]) -> None:
    """Call `take(True)` whenever `fd` is readable, until `notify_closing`.

    With a pump also `take(False)`, before each request: who makes that may have been told (by a
    `Notice`) of what is to be taken, and the descriptor was looked at before.
    """
    with contextlib.suppress(trio.ClosedResourceError):
        while True:
            pump = None if _switching is None else _switching.pump()
            if pump is not None:
                await pump.attend(fd, take)
            elif await _is_readable(fd):
                take(True)


async def _is_readable(fd: int) -> bool:
    """Wait for it by trio; False where a pump has taken over.

    Raises: trio.ClosedResourceError after `notify_closing`.
    """
    _waited_for.add(fd)
    try:
        await trio.lowlevel.wait_readable(fd)
    except trio.ClosedResourceError:
        if fd in _waited_for:
            raise
        return False
    finally:
        _waited_for.discard(fd)
    return True


def take_over() -> None:
    """A pump has become active: whoever waits by trio is to wait by it."""
    for fd in list(_waited_for):
        _waited_for.discard(fd)
        trio.lowlevel.notify_closing(fd)


def notify_closing(fd: int) -> None:
    """To be called before the descriptor is closed: whoever waits for it goes on."""
    trio.lowlevel.notify_closing(fd)
    pump = None if _switching is None else _switching.pump()
    if pump is not None:
        pump.forget(fd)


def make_pump(source: "_switching.Source", spin_s: float, turn_s: float) -> "_switching.Pump":
    """To be entered where it runs: a task that calls `run` and lets trio have a round, until that
    returns False. Needs `is_supported`."""
    return _switching.Pump(source, spin_s, turn_s)
