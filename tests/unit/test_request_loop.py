"""The reader role: who reads, who waits, and that all end."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from radosmount.fuse.loop import TURN_S, RequestLoop, is_supported


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


def compute_for_long() -> None:
    time.sleep(1.5 * TURN_S)


class Worker:
    """Does as a worker of pyfuse3: waits, reads one byte, handles it."""

    def __init__(self, loop: RequestLoop, fd: int) -> None:
        self.loop = loop
        self.fd = fd
        self.handled: list[bytes] = []
        self.has_ended = False
        self.released = trio.Event()
        self.asks_next: Callable[[], object] = lambda: None  # who was answered

    async def run(self) -> None:
        while await self.loop.wait_readable():
            request = os.read(self.fd, 1)
            if request == b"s":  # a slow one
                self.loop.hand_over()
                await self.released.wait()
                self.asks_next()
            if request == b"l":
                compute_for_long()
            self.handled.append(request)
        self.has_ended = True


@pytest.fixture
async def workers(
    pipe: tuple[int, int], nursery: trio.Nursery
) -> AsyncIterator[tuple[Worker, Worker]]:
    loop = RequestLoop(pipe[0], spin_s=0)
    first, second = Worker(loop, pipe[0]), Worker(loop, pipe[0])
    nursery.start_soon(first.run)
    await wait_all_tasks_blocked()
    nursery.start_soon(second.run)
    await wait_all_tasks_blocked()
    yield first, second
    loop.close()
    first.released.set()
    second.released.set()
    nursery.cancel_scope.cancel()


async def test_one_worker_takes_all_fast_requests(
    pipe: tuple[int, int], workers: tuple[Worker, Worker]
) -> None:
    """Requests that need no waiting are served by one worker, in order."""
    os.write(pipe[1], b"abcdef" * 20)
    await wait_all_tasks_blocked(0.05)
    assert b"".join(workers[0].handled) == b"abcdef" * 20
    assert workers[1].handled == []


async def test_others_get_their_turn(
    pipe: tuple[int, int], workers: tuple[Worker, Worker], nursery: trio.Nursery
) -> None:
    """However long requests that do not wait take, each lets other tasks run behind it."""
    seen: list[int] = []

    async def other() -> None:
        while len(seen) < 4:
            seen.append(len(workers[0].handled))
            await trio.lowlevel.checkpoint()

    os.write(pipe[1], b"l" * 20)
    nursery.start_soon(other)
    await wait_all_tasks_blocked(0.05)
    assert len(workers[0].handled) == 20
    assert seen[-1] <= 4


async def test_a_slow_request_does_not_hold_up_the_next(
    pipe: tuple[int, int], workers: tuple[Worker, Worker]
) -> None:
    """A handler that waits hands the role over; its worker comes back when it is done."""
    first, second = workers
    os.write(pipe[1], b"sab")
    await wait_all_tasks_blocked(0.05)
    assert (first.handled, second.handled) == ([], [b"a", b"b"])
    first.released.set()
    await wait_all_tasks_blocked(0.05)
    assert first.handled == [b"s"]
    second.loop.close()
    os.write(pipe[1], b"x")
    await wait_all_tasks_blocked(0.05)
    assert first.has_ended
    assert second.has_ended


async def test_who_answers_late_reads_what_comes_next(
    pipe: tuple[int, int], workers: tuple[Worker, Worker]
) -> None:
    """The caller of a slow request comes back with its next one: no other worker wakes for it, and
    the other that waits for the device is left to wait."""
    first, second = workers
    first.asks_next = lambda: os.write(pipe[1], b"a")
    os.write(pipe[1], b"s")
    await wait_all_tasks_blocked(0.05)
    first.released.set()
    await wait_all_tasks_blocked(0.05)
    assert (first.handled, second.handled) == ([b"s", b"a"], [])


async def test_the_sentinel_leaves_what_another_reads(
    pipe: tuple[int, int], workers: tuple[Worker, Worker]
) -> None:
    """It is woken while the reader lets others have their turn, and reads nothing."""
    first, second = workers
    first.asks_next = lambda: os.write(pipe[1], b"l" * 10)
    os.write(pipe[1], b"s")
    await wait_all_tasks_blocked(0.05)
    first.released.set()
    await wait_all_tasks_blocked(0.05)
    assert (first.handled, second.handled) == ([b"s", *[b"l"] * 10], [])
    os.write(pipe[1], b"sab")
    first.released = trio.Event()
    second.released.set()
    await wait_all_tasks_blocked(0.05)
    assert sorted(second.handled + first.handled[11:]) == [b"a", b"b", b"s"]


async def test_a_request_that_ends_after_the_session(
    pipe: tuple[int, int], workers: tuple[Worker, Worker]
) -> None:
    """A worker whose handler was still waiting at the end of the session ends after it."""
    first, second = workers
    os.write(pipe[1], b"s")
    await wait_all_tasks_blocked(0.05)
    first.loop.close()
    os.write(pipe[1], b"x")
    await wait_all_tasks_blocked(0.05)
    assert second.has_ended
    first.released.set()
    await wait_all_tasks_blocked(0.05)
    assert first.has_ended


async def test_all_workers_waiting_leave_the_role_free(
    pipe: tuple[int, int], workers: tuple[Worker, Worker]
) -> None:
    """When every worker waits nobody reads; the first that is done reads again."""
    first, second = workers
    os.write(pipe[1], b"ssab")
    await wait_all_tasks_blocked(0.05)
    assert (first.handled, second.handled) == ([], [])
    second.released.set()
    await wait_all_tasks_blocked(0.05)
    assert second.handled == [b"s", b"a", b"b"]


class CountingLoop(RequestLoop):
    """Counts how often it polls for the next request."""

    spin_count = 0

    def _spin(self) -> list[tuple[int, int]]:
        self.spin_count += 1
        return []


async def test_nobody_polls_while_a_handler_waits(
    pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    """What answers it could not come in meanwhile."""
    loop = CountingLoop(pipe[0])
    workers = [Worker(loop, pipe[0]) for _ in range(2)]
    for worker in workers:
        nursery.start_soon(worker.run)
        await wait_all_tasks_blocked()
    os.write(pipe[1], b"f")
    await wait_all_tasks_blocked()
    assert loop.spin_count == 1
    os.write(pipe[1], b"sf")
    await wait_all_tasks_blocked()
    assert loop.spin_count == 1
    for worker in workers:
        worker.released.set()
    await wait_all_tasks_blocked()
    assert loop.spin_count == 2  # whose answer came asks again, perhaps
    os.write(pipe[1], b"f")
    await wait_all_tasks_blocked()
    assert loop.spin_count == 3
    loop.close()
    nursery.cancel_scope.cancel()


async def test_workers_that_have_read_come_first(
    pipe: tuple[int, int], nursery: trio.Nursery
) -> None:
    """A worker that never read gets the role only when all others wait: each that reads once
    keeps a buffer of 1 MiB."""
    loop = RequestLoop(pipe[0], spin_s=0)
    workers = [Worker(loop, pipe[0]) for _ in range(4)]
    for worker in workers:
        nursery.start_soon(worker.run)
        await wait_all_tasks_blocked()
    for _ in range(6):
        os.write(pipe[1], b"sa")
        await wait_all_tasks_blocked(0.05)
        for worker in workers:
            worker.released.set()
        await wait_all_tasks_blocked(0.05)
        for worker in workers:
            worker.released = trio.Event()
    assert sum(bool(worker.handled) for worker in workers) == 2
    loop.close()
    os.write(pipe[1], b"x")
    nursery.cancel_scope.cancel()


async def test_a_hung_up_device_ends_all_workers(nursery: trio.Nursery) -> None:
    """When the other side is gone (unmounted), every worker ends."""
    read_fd, write_fd = os.pipe()
    loop = RequestLoop(read_fd, spin_s=0)
    first, second = Worker(loop, read_fd), Worker(loop, read_fd)
    nursery.start_soon(first.run)
    nursery.start_soon(second.run)
    await wait_all_tasks_blocked()
    os.close(write_fd)
    await wait_all_tasks_blocked(0.05)
    assert first.has_ended
    assert second.has_ended
    os.close(read_fd)


async def test_other_tasks_run_during_a_flood(pipe: tuple[int, int], nursery: trio.Nursery) -> None:
    """A reader that always finds a request lets other tasks run all the same."""
    loop = RequestLoop(pipe[0], spin_s=0)
    has_run = trio.Event()
    served_count = 0

    async def serve_until_other_ran() -> None:
        nonlocal served_count
        os.write(pipe[1], b"x")  # never read: always readable
        nursery.start_soon(run_other)
        while not has_run.is_set() and served_count < 10_000:
            assert await loop.wait_readable()
            served_count += 1

    async def run_other() -> None:
        has_run.set()

    await serve_until_other_ran()
    assert has_run.is_set()
    assert loop.request_count == served_count < 100


async def test_what_follows_init_comes_before_the_second_request(pipe: tuple[int, int]) -> None:
    """`after_init` is called once, between the first request and the second."""
    calls: list[int] = []
    loop = RequestLoop(pipe[0], lambda: calls.append(loop.request_count), spin_s=0)
    os.write(pipe[1], b"x")
    for _ in range(3):
        await loop.wait_readable()
    assert calls == [1]


def test_this_pyfuse3_is_supported() -> None:
    """The pinned pyfuse3 has the function that the loop takes the place of."""
    assert is_supported()
