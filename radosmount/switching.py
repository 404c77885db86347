"""Who goes on when: waking tasks that wait for each other, as cheaply as can be.

A request passes through several tasks: who answers it waits for who has the object's turn, and
that one for the store. By trio each handing over is a round of its scheduler, with a look at
all descriptors and deadlines; all of them together cost more than what the tasks do.

While a mount serves, `Pump` (compiled, _switching.pyx) waits in trio's place: for requests, for the
answers of the store, and for trio's own epoll. It steps the tasks that `wake` names one after the
other, and lets trio have a round where any other task is ready, or a deadline has come. Without
it (tests, the end, no compiler) all this is trio's.

    park(abort) <── wake(task)          a task that waits for another
    wait_readable(fd), forget(fd)       a task that waits for a descriptor

`current_time` and `current_task` are trio's, at a tenth of the cost: both are asked for many times
a request.

Invariant: who waits by `park` is woken by `wake`, once, or by trio's cancelling; nobody else.
"""

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
else:
    current_task = trio.lowlevel.current_task
    current_time = trio.current_time

    def park(abort: Abort) -> Awaitable[Any]:
        """Wait until `wake`, and return what it sends. `abort`: see `wait_task_rescheduled`."""
        return trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 # by the caller

    def wake(task: trio.lowlevel.Task, sent: outcome.Outcome[Any] | None = None) -> None:
        """Let a task that is parked go on. Only from the trio thread."""
        trio.lowlevel.reschedule(task, sent or outcome.Value(None))


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
        and hasattr(runner.deadlines, "next_deadline")
    )


async def wait_readable(fd: int, is_readable: Callable[[], bool]) -> None:
    """As trio's; where a pump begins or ends it may return too early. `is_readable`: the same
    without a system call, to be asked before each request: who makes that may have been told of
    what is to be read (`Notice`).

    Raises: trio.ClosedResourceError after `notify_closing`.
    """
    pump = None if _switching is None else _switching.pump()
    if pump is not None:
        await pump.readable(fd, is_readable)
        return
    _waited_for.add(fd)
    try:
        await trio.lowlevel.wait_readable(fd)
    except trio.ClosedResourceError:
        if fd in _waited_for:
            raise
    finally:
        _waited_for.discard(fd)


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
