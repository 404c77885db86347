"""Operations on one object run one after another."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from radosmount.cache.sequencer import Sequencer
from radosmount.errors import DeadlineExceeded
from tests.support.stores import key_of

A, B = key_of(b"a"), key_of(b"b")


class Steps:
    """Operations that wait until they are let go, and what happened so far."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gates: dict[str, trio.Event] = {}

    def operation(self, name: str) -> Callable[[], Awaitable[str]]:
        self.gates[name] = trio.Event()

        async def run() -> str:
            self.log.append(f"{name} starts")
            await self.gates[name].wait()
            self.log.append(f"{name} ends")
            return name

        return run


async def test_one_object_one_at_a_time(nursery: trio.Nursery) -> None:
    """An operation starts when the one before it on the same object has ended."""
    sequencer, steps = Sequencer(nursery, 30), Steps()
    first = sequencer.submit(A, steps.operation("1"))
    second = sequencer.submit(A, steps.operation("2"))
    await trio.testing.wait_all_tasks_blocked()
    assert steps.log == ["1 starts"]
    steps.gates["2"].set()
    steps.gates["1"].set()
    assert await second.result() == "2"
    assert first.is_done
    assert steps.log == ["1 starts", "1 ends", "2 starts", "2 ends"]


async def test_objects_do_not_wait_for_each_other(nursery: trio.Nursery) -> None:
    """Operations on two objects run at the same time."""
    sequencer, steps = Sequencer(nursery, 30), Steps()
    sequencer.submit(A, steps.operation("1"))
    ticket = sequencer.submit(B, steps.operation("2"))
    steps.gates["2"].set()
    assert await ticket.result() == "2"
    assert "1 ends" not in steps.log
    assert not sequencer.is_idle(A)
    steps.gates["1"].set()
    await trio.testing.wait_all_tasks_blocked()
    assert sequencer.is_idle(A)


async def test_failure_goes_to_who_waits(nursery: trio.Nursery) -> None:
    """An operation's exception is its ticket's, and the next operation runs all the same."""
    sequencer, steps = Sequencer(nursery, 30), Steps()

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("oops")

    failing = sequencer.submit(A, fail)
    ticket = sequencer.submit(A, steps.operation("2"))
    steps.gates["2"].set()
    with pytest.raises(ValueError, match="oops"):
        await failing.result()
    assert await ticket.result() == "2"


async def test_cancelled_waiter_leaves_the_operation(nursery: trio.Nursery) -> None:
    """Who waits may be cancelled; the operation goes on."""
    sequencer, steps = Sequencer(nursery, 30), Steps()
    ticket = sequencer.submit(A, steps.operation("1"))
    await trio.testing.wait_all_tasks_blocked()
    with trio.move_on_after(0):
        await ticket.result()
    steps.gates["1"].set()
    assert await ticket.result() == "1"


async def test_settle_gives_up_without_progress(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A wait ends with DeadlineExceeded when nothing was acknowledged for the timeout."""
    sequencer, steps = Sequencer(nursery, 10), Steps()
    ticket = sequencer.submit(A, steps.operation("1"))
    with pytest.raises(DeadlineExceeded):
        await sequencer.settle(ticket, lambda: 0.0, A)
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    steps.gates["1"].set()
    assert await sequencer.settle(ticket, lambda: 0.0, A) == "1"


async def test_settle_waits_as_long_as_there_is_progress(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """An acknowledgement now and then keeps the wait alive beyond the timeout."""
    sequencer = Sequencer(nursery, 10)
    last_s = [0.0]

    async def slow() -> str:
        for _ in range(5):
            await trio.sleep(8)
            last_s[0] = trio.current_time()
        return "done"

    ticket = sequencer.submit(A, slow)
    assert await sequencer.settle(ticket, lambda: last_s[0], A) == "done"
    assert trio.current_time() >= 40


async def test_empty_queue_takes_no_memory(nursery: trio.Nursery) -> None:
    """An object whose operations have ended is forgotten, and can come again."""
    sequencer, steps = Sequencer(nursery, 30), Steps()
    for name in ("1", "2"):
        ticket = sequencer.submit(A, steps.operation(name))
        steps.gates[name].set()
        await ticket.result()
        await trio.testing.wait_all_tasks_blocked()
        assert sequencer.is_idle(A)


async def test_any_number_may_wait(nursery: trio.Nursery) -> None:
    """Two who wait for one operation both get its result, or its exception."""
    sequencer, steps = Sequencer(nursery, 30), Steps()

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("oops")

    ticket = sequencer.submit(A, steps.operation("1"))
    steps.gates["1"].set()
    assert [await ticket.result(), await ticket.result()] == ["1", "1"]
    failing = sequencer.submit(A, fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="oops"):
            await failing.result()


async def test_a_deadline_of_a_wait_that_was_cancelled(nursery: trio.Nursery) -> None:
    """Both in one moment: the waiter is gone, and nothing else ends."""
    sequencer, steps = Sequencer(nursery, 10), Steps()
    ticket = sequencer.submit(A, steps.operation("1"))
    tasks: list[trio.lowlevel.Task] = []

    async def wait() -> None:
        tasks.append(trio.lowlevel.current_task())
        await ticket.result()

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        waiting.cancel_scope.cancel()
        ticket.interrupt(tasks[0], DeadlineExceeded("late"))
    steps.gates["1"].set()
    assert await ticket.result() == "1"
