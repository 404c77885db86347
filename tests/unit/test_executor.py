"""The executor: bounds, turns, answers, and its end. Threads, but no cluster."""

import queue
import threading
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

from radosmount.errors import Disconnected, ObjectNotFound, TimedOut
from radosmount.store.rados.executor import Executor

THREAD_COUNT = 4
LANE_THREAD_COUNT_MAX = 2
CALL_TIMEOUT_S = 0.5


class State:
    """What a thread keeps; notes which thread made and which closed it."""

    def __init__(self) -> None:
        self.made_by = threading.current_thread()
        self.closed_by: threading.Thread | None = None

    def close(self) -> None:
        self.closed_by = threading.current_thread()


class Gate:
    """Calls that block until let through, as a dead OSD's."""

    def __init__(self) -> None:
        self._tickets: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.entered: queue.SimpleQueue[str] = queue.SimpleQueue()

    def call(self, name: str) -> Callable[[State], str]:
        def function(_: State) -> str:
            self.entered.put(name)
            self._tickets.get()
            return name

        return function

    def let_through(self, count: int) -> None:
        for _ in range(count):
            self._tickets.put(None)

    async def next_entered(self) -> str:
        return await trio.to_thread.run_sync(lambda: self.entered.get(timeout=10))


@pytest.fixture
def states() -> list[State]:
    return []


@pytest.fixture
async def executor(states: list[State]) -> AsyncIterator[Executor[State]]:
    def make_state() -> State:
        states.append(State())
        return states[-1]

    opened = Executor("test", make_state, THREAD_COUNT, LANE_THREAD_COUNT_MAX, CALL_TIMEOUT_S)
    yield opened
    assert await opened.aclose(10)


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def test_answers(executor: Executor[State]) -> None:
    """What the function returns or raises is what its caller gets."""

    def fail(_: State) -> None:
        raise ObjectNotFound("o") from ValueError("inner")

    assert await executor.call("a", lambda _: 42) == 42
    with pytest.raises(ObjectNotFound) as caught:
        await executor.call("a", fail)
    assert caught.value.__cause__ is None, "it would pin the call's data"
    with pytest.raises(ZeroDivisionError):
        await executor.call("a", lambda _: 1 // 0)
    assert await executor.call("a", lambda _: 43) == 43


async def test_many_answers(executor: Executor[State]) -> None:
    answers: list[int] = []

    async def call(number: int) -> None:
        answers.append(await executor.call(number % 7, lambda _: number))

    async with trio.open_nursery() as nursery:
        for number in range(500):
            nursery.start_soon(call, number)
    assert sorted(answers) == list(range(500))


async def test_reads_of_a_dead_lane_time_out(executor: Executor[State], gate: Gate) -> None:
    """A droppable call is answered in time, whether it hangs or stands behind those that do;
    any other is answered when it has ended."""
    failures: list[TimedOut] = []
    ended: list[str] = []

    async def read() -> None:
        with pytest.raises(TimedOut) as caught:
            await executor.call("dead", gate.call("read"), is_droppable=True)
        failures.append(caught.value)

    async def write() -> None:
        ended.append(await executor.call("dead", gate.call("write")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await gate.next_entered()
        async with trio.open_nursery() as reading:
            for _ in range(5):
                reading.start_soon(read)
        assert (len(failures), ended) == (5, [])
        gate.let_through(2)  # the write, and the one read that had begun
    assert ended == ["write"]
    assert gate.entered.qsize() == 1, "reads that nobody waits for do not begin"


async def test_a_dead_lane_leaves_threads_for_others(executor: Executor[State], gate: Gate) -> None:
    """However many calls of one pool hang, those of another go on."""
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(executor.call, "dead", gate.call("dead"))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            assert await executor.call("alive", lambda _: 42) == 42
        gate.let_through(10)
    assert gate.entered.qsize() == 10


async def test_at_most_thread_count_run(executor: Executor[State], gate: Gate) -> None:
    async with trio.open_nursery() as nursery:
        for lane in ("a", "b", "c"):
            for _ in range(3):
                nursery.start_soon(executor.call, lane, gate.call(lane))
        for _ in range(THREAD_COUNT):
            await gate.next_entered()
        await trio.testing.wait_all_tasks_blocked()
        assert gate.entered.empty()
        gate.let_through(9)


async def test_lanes_take_turns(executor: Executor[State], gate: Gate) -> None:
    """A pool with a long queue does not keep another one's single call waiting."""
    async with trio.open_nursery() as nursery:
        for lane in ("x", "y"):
            for _ in range(2):
                nursery.start_soon(executor.call, lane, gate.call(lane))
        for _ in range(THREAD_COUNT):
            await gate.next_entered()
        for _ in range(5):
            nursery.start_soon(executor.call, "x", gate.call("x"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(executor.call, "z", gate.call("z"))
        await trio.testing.wait_all_tasks_blocked()
        gate.let_through(1)  # whoever takes that ends, and one begins
        assert await gate.next_entered() == "z"
        gate.let_through(9)


async def test_cancelling_abandons_the_answer(executor: Executor[State], gate: Gate) -> None:
    """At once, and the call under way goes on to its end."""
    finished = threading.Event()

    def function(state: State) -> None:
        gate.call("a")(state)
        finished.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.call, "a", function)
        await gate.next_entered()
        nursery.cancel_scope.cancel()
    assert not finished.is_set()
    gate.let_through(1)
    assert await trio.to_thread.run_sync(finished.wait, 10)


@pytest.mark.parametrize("is_droppable", [True, False])
async def test_cancelling_what_has_not_begun(
    executor: Executor[State], gate: Gate, is_droppable: bool
) -> None:
    """A read is dropped, a write goes on."""
    has_run = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(LANE_THREAD_COUNT_MAX):
            nursery.start_soon(executor.call, "a", gate.call("a"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await executor.call("a", lambda _: has_run.set(), is_droppable=is_droppable)
        assert scope.cancelled_caught
        gate.let_through(LANE_THREAD_COUNT_MAX)
    assert await executor.aclose(10)  # waits for all that there is to do
    assert has_run.is_set() is not is_droppable


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_end(executor: Executor[State], states: list[State], gate: Gate) -> None:
    """Queued calls are still done, later ones refused; each thread closes its own state."""
    answers: list[str] = []

    async def call() -> None:
        answers.append(await executor.call("a", gate.call("a")))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(executor.aclose, 10)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Disconnected):
            await executor.call("a", lambda _: None)
        gate.let_through(5)
    assert answers == ["a"] * 5
    assert states
    assert all(state.closed_by is state.made_by for state in states)


async def test_end_with_a_stuck_call(gate: Gate) -> None:
    """It says so in time, and what had not begun is refused."""
    executor = Executor("test", State, 1, 1, CALL_TIMEOUT_S)
    refused: list[str] = []

    async def call() -> None:
        with pytest.raises(Disconnected):
            await executor.call("a", lambda _: None)
        refused.append("late")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.call, "a", gate.call("stuck"))
        await gate.next_entered()
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert not await executor.aclose(0.01)
        await trio.testing.wait_all_tasks_blocked()
        assert refused == ["late"]
        gate.let_through(1)
