"""The pump: requests, answers of others and trio's own tasks, all on one thread."""

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import outcome
import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from radosmount import switching

if TYPE_CHECKING:
    from radosmount._switching import Pump

LONG_S = 3600.0


class FakeSource:
    """A device whose requests are single bytes; `end` as an unmount."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_ended = False
        self.change_count = 0

    def fileno(self) -> int:
        return self._fd

    def next(self) -> bytes | None:
        try:
            return os.read(self._fd, 1) or None
        except BlockingIOError:
            return None

    def end(self) -> None:
        self.is_ended = True

    def note_change(self) -> None:
        self.change_count += 1


class Requests:
    """The other end: what the kernel would send, and what was answered."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self.source = FakeSource(self._theirs.fileno())
        self.answers: list[bytes] = []

    def send(self, requests: bytes) -> None:
        self._ours.sendall(requests)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def requests() -> Iterator[Requests]:
    made = Requests()
    yield made
    made.close()


Handler = Callable[[bytes], object]


@asynccontextmanager
async def serving(
    requests: Requests, handle: Handler, worker_count: int = 2
) -> AsyncIterator[None]:
    """A pump with workers that await `handle`, if it returns something to await. At the end what
    was read is answered, as by an unmount."""

    async def work(pump: "Pump") -> None:
        while True:
            request = await pump.request()
            result = handle(request)
            if result is not None:
                await result  # type: ignore[misc]
            requests.answers.append(request)

    is_serving = trio.Event()

    async def serve() -> None:
        async with trio.open_nursery() as workers:
            with switching.make_pump(requests.source, 0.0, 1e-3) as pump:
                switching.take_over()
                await pump.settle()
                pump.worker_count = worker_count
                for _ in range(worker_count):
                    workers.start_soon(work, pump)
                is_serving.set()
                while pump.run():
                    await trio.lowlevel.checkpoint()
            workers.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await is_serving.wait()
        yield
        requests.source.end()


class Lot:
    """Tasks that wait until they are woken, in order."""

    def __init__(self) -> None:
        self.parked: list[trio.lowlevel.Task] = []
        self.was_left = False

    async def wait(self) -> object:
        task = switching.current_task()
        self.parked.append(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            self.parked.remove(task)
            self.was_left = True
            return trio.lowlevel.Abort.SUCCEEDED

        return await switching.park(leave)

    def wake(self, sent: object = None) -> None:
        switching.wake(self.parked.pop(0), sent)


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not is_so():
            await trio.lowlevel.checkpoint()


def test_it_is_supported_here() -> None:
    """The trio that is installed is one whose inside we know; else mounts are slow."""

    async def ask() -> bool:
        return switching.is_supported()

    assert trio.run(ask)


async def test_requests_are_answered_in_order(requests: Requests) -> None:
    requests.send(b"abc")
    async with serving(requests, lambda request: None):
        await until(lambda: requests.answers == [b"a", b"b", b"c"])
        requests.send(b"d")
        await until(lambda: requests.answers[3:] == [b"d"])


async def test_a_waiting_request_stands_before_no_other(requests: Requests) -> None:
    """A worker that waits leaves the next request to another one."""
    lot = Lot()
    async with serving(requests, lambda request: lot.wait() if request == b"s" else None):
        requests.send(b"sf")
        await until(lambda: requests.answers == [b"f"])
        lot.wake()
        await until(lambda: requests.answers == [b"f", b"s"])


async def test_more_requests_than_workers_wait(requests: Requests) -> None:
    """What no worker is there for stays with the kernel; once one is, it is read."""
    lot = Lot()
    async with serving(requests, lambda request: lot.wait(), worker_count=1):
        requests.send(b"ab")
        await until(lambda: len(lot.parked) == 1)
        lot.wake()
        await until(lambda: requests.answers == [b"a"] and len(lot.parked) == 1)
        lot.wake()
        await until(lambda: requests.answers == [b"a", b"b"])


@pytest.mark.parametrize("is_pumped", [False, True])
async def test_what_is_sent_arrives(is_pumped: bool, requests: Requests) -> None:
    """A value, an exception, or nothing, with a pump or without one."""
    lot = Lot()
    got: list[object] = []

    async def wait() -> None:
        got.append(await lot.wait())
        got.append(await lot.wait())
        try:
            await lot.wait()
        except ValueError as failure:
            got.append(str(failure))

    async def wake_thrice() -> None:
        for sent in (None, 7, outcome.Error(ValueError("late"))):
            await until(lambda: bool(lot.parked))
            lot.wake(sent)
        await until(lambda: len(got) == 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        if is_pumped:
            async with serving(requests, lambda request: None):
                await wake_thrice()
        else:
            await wake_thrice()
    assert got == [None, 7, "late"]


async def test_trios_tasks_go_on(requests: Requests) -> None:
    """Those of the same round as the pump, sleepers, and those that another thread wakes: the pump
    waits in trio's place, never in their way."""
    done: list[str] = []

    async def sleep() -> None:
        await trio.sleep(0.01)
        done.append("sleep")

    async def work_in_thread() -> None:
        done.append(await trio.to_thread.run_sync(lambda: "thread"))

    async with serving(requests, lambda request: None), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(sleep)
            nursery.start_soon(work_in_thread)
            await trio.lowlevel.checkpoint()
    assert sorted(done) == ["sleep"] * 20 + ["thread"] * 20


async def test_a_deadline_is_noticed_among_requests(requests: Requests) -> None:
    """However many requests come."""
    async with serving(requests, lambda request: requests.send(request)):
        requests.send(b"a")
        with trio.move_on_after(0.05) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert len(requests.answers) > 1


async def test_a_handler_may_use_all_of_trio(requests: Requests) -> None:
    event = trio.Event()

    async def handle() -> None:
        with trio.move_on_after(0.001):
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.001)
            nursery.start_soon(trio.lowlevel.cancel_shielded_checkpoint)
        await event.wait()

    async with serving(requests, lambda request: handle() if request == b"s" else event.set()):
        requests.send(b"se")
        await until(lambda: sorted(requests.answers) == [b"e", b"s"])


async def test_a_parked_task_can_be_cancelled(requests: Requests) -> None:
    lot = Lot()

    async def handle() -> None:
        with trio.move_on_after(0.01) as scope:
            await lot.wait()
        assert scope.cancelled_caught

    async with serving(requests, lambda request: handle()):
        requests.send(b"a")
        await until(lambda: requests.answers == [b"a"])
    assert lot.was_left


async def test_who_is_parked_in_a_cancelled_scope_leaves(requests: Requests) -> None:
    """Also where it parks only after the scope was cancelled."""

    async def handle() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await Lot().wait()
        assert scope.cancelled_caught

    async with serving(requests, lambda request: handle()):
        requests.send(b"a")
        await until(lambda: requests.answers == [b"a"])


@pytest.mark.parametrize("is_pumped", [False, True])
async def test_who_is_cancelled_can_tell(is_pumped: bool, requests: Requests) -> None:
    """Before anything is begun that could not be recalled; a shield counts."""
    seen: list[bool] = []

    async def handle() -> None:
        seen.append(switching.is_cancelled())
        with trio.CancelScope() as scope:
            scope.cancel()
            seen.append(switching.is_cancelled())
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                seen.append(switching.is_cancelled())

    if is_pumped:
        async with serving(requests, lambda request: handle()):
            requests.send(b"a")
            await until(lambda: requests.answers == [b"a"])
    else:
        await handle()
    assert seen == [False, True, False]


async def test_the_end_waits_for_what_was_read(requests: Requests) -> None:
    lot = Lot()
    async with serving(requests, lambda request: lot.wait()):
        requests.send(b"a")
        await until(lambda: bool(lot.parked))
        requests.source.end()
        for _ in range(10):  # rounds of trio's, and so of the pump's
            await trio.lowlevel.checkpoint()
        assert not requests.answers
        lot.wake()
    assert requests.answers == [b"a"]


class Answers:
    """As of the store: taken when their descriptor is readable, or when there may be some."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.seen: list[bytes] = []
        self.is_attended = False

    async def run(self) -> None:
        self.is_attended = True  # by the end of this step
        await switching.attend(self.fd, self.take)

    def take(self, is_signalled: bool) -> None:
        with contextlib.suppress(BlockingIOError):
            self.seen.append(os.read(self.fd, 1))


@pytest.mark.parametrize("is_pumped", [False, True])
async def test_a_descriptor_is_waited_for(
    is_pumped: bool, requests: Requests, pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    """With a pump, without one, and from one to the other."""
    answers = Answers(pipe[0])
    nursery.start_soon(answers.run)
    await wait_all_tasks_blocked()
    for number in range(2):
        if is_pumped:
            async with serving(requests, lambda request: None):
                for _ in range(2):
                    count = len(answers.seen)
                    os.write(pipe[1], b"x")
                    await until(lambda count=count: len(answers.seen) > count)  # type: ignore[misc]
            requests.source.is_ended = False
        else:
            os.write(pipe[1], b"x")
            await until(lambda number=number: len(answers.seen) > number)  # type: ignore[misc]
    switching.notify_closing(pipe[0])


async def test_closing_ends_the_wait(
    requests: Requests, pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    answers = Answers(pipe[0])
    async with serving(requests, lambda request: None), trio.open_nursery() as waiting:
        waiting.start_soon(answers.run)
        await until(lambda: answers.is_attended)
        switching.notify_closing(pipe[0])
    assert not answers.seen


async def test_what_has_ended_comes_before_the_next_request(
    requests: Requests, pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    """Whoever asks may have been told of it already (`Notice`), so it is looked for once more when
    his request has been read, whatever the descriptors said before."""
    answers = Answers(pipe[0])
    nursery.start_soon(answers.run)
    order: list[int] = []

    def handle(request: bytes) -> None:
        order.append(len(answers.seen))
        if request == b"a":  # as another thread would, between the look at descriptors and the read
            os.write(pipe[1], b"x")

    async with serving(requests, handle):
        requests.send(b"ab")
        await until(lambda: len(requests.answers) == 2)
    switching.notify_closing(pipe[0])
    assert order == [0, 1]


async def test_a_change_is_noted_with_every_turn(requests: Requests) -> None:
    """So that nothing is answered from what was known before."""
    async with serving(requests, lambda request: None):
        before = requests.source.change_count
        requests.send(b"a")
        await until(lambda: requests.answers == [b"a"])
        assert requests.source.change_count > before


async def test_the_clock_is_trios(requests: Requests) -> None:
    async with serving(requests, lambda request: None):
        before = trio.current_time()
        assert before <= switching.current_time() + 1e-5
        assert switching.current_time() <= trio.current_time() + 1e-5


async def test_there_is_one_pump(requests: Requests) -> None:
    async with serving(requests, lambda request: None):
        with pytest.raises(RuntimeError, match="one pump"):
            switching.make_pump(requests.source, 0.0, 1e-3).__enter__()


async def test_what_has_ended_comes_before_a_deadline(
    requests: Requests, pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    """However late both are noticed: a program that was told of success must not be failed."""
    answers = Answers(pipe[0])
    seen_at_deadline: list[int] = []

    async def end_at(deadline_s: float) -> None:
        await trio.sleep_until(deadline_s)
        seen_at_deadline.append(len(answers.seen))

    def handle(request: bytes) -> None:
        os.write(pipe[1], b"x")
        time.sleep(0.05)  # the deadline passes, and nothing was looked at since

    async with serving(requests, handle):
        nursery.start_soon(answers.run)
        await until(lambda: answers.is_attended)
        nursery.start_soon(end_at, trio.current_time() + 0.03)
        requests.send(b"a")
        await until(lambda: bool(seen_at_deadline))
    switching.notify_closing(pipe[0])
    assert seen_at_deadline == [1]
