"""Written bytes stay under one number."""

import pytest
import trio
import trio.testing

from radosmount.cache.budget import Budget


async def hold(budget: Budget, byte_count: int, order: list[int]) -> None:
    await budget.reserve(byte_count)
    order.append(byte_count)


def test_reserves_up_to_the_limit() -> None:
    """There is room until the limit is reached, and again when something is released."""
    budget = Budget(10)
    assert budget.try_reserve(6)
    assert not budget.try_reserve(5)
    assert budget.try_reserve(4)
    budget.release(6)
    assert budget.held_bytes == 4
    assert budget.try_reserve(6)


def test_too_large_a_request_gets_through_alone() -> None:
    """A request beyond the limit is served when nothing else is held."""
    budget = Budget(10)
    assert budget.try_reserve(50)
    assert not budget.try_reserve(1)
    budget.release(50)
    assert budget.try_reserve(1)
    assert not budget.try_reserve(50)


async def test_waiters_are_served_in_order(nursery: trio.Nursery) -> None:
    """A small request does not pass a large one that waits already."""
    budget, order = Budget(10), list[int]()
    assert budget.try_reserve(9)
    nursery.start_soon(hold, budget, 5, order)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(hold, budget, 6, order)
    await trio.testing.wait_all_tasks_blocked()
    assert not budget.try_reserve(1)
    assert order == []
    budget.release(9)
    await trio.testing.wait_all_tasks_blocked()
    assert order == [5]
    budget.release(5)
    await trio.testing.wait_all_tasks_blocked()
    assert order == [5, 6]
    assert not budget.has_waiters
    assert budget.held_bytes == 6


async def test_cancelled_wait_takes_nothing(nursery: trio.Nursery) -> None:
    """Cancelling a wait lets the next one in, and holds no bytes."""
    budget, order = Budget(10), list[int]()
    assert budget.try_reserve(6)
    with trio.CancelScope() as scope:
        nursery.start_soon(hold, budget, 3, order)
        await trio.testing.wait_all_tasks_blocked()
        assert order == [3]
        scope.cancel()
        await budget.reserve(9)
    assert scope.cancelled_caught
    assert budget.try_reserve(1)
    assert budget.held_bytes == 10


async def test_cancelled_when_just_admitted(nursery: trio.Nursery) -> None:
    """A wait that is cancelled as its room comes gives the room back."""
    budget = Budget(10)
    assert budget.try_reserve(10)
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            await budget.reserve(7)

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    budget.release(10)
    await trio.testing.wait_all_tasks_blocked()
    assert budget.held_bytes in (0, 7)
    assert not budget.has_waiters
    if not scope.cancelled_caught:
        budget.release(7)
    assert budget.held_bytes == 0


async def test_a_larger_limit_does_not_wait_behind_a_smaller_one(nursery: trio.Nursery) -> None:
    """Who may hold more passes those that may not, and nobody else passes anyone."""
    budget, order = Budget(10), list[int]()
    limits = {2: 7, 3: 10}
    assert budget.try_reserve(6, 7)

    async def hold_limited(byte_count: int) -> None:
        await budget.reserve(byte_count, lambda: limits[byte_count])
        order.append(byte_count)

    nursery.start_soon(hold_limited, 2)
    await trio.testing.wait_all_tasks_blocked()
    assert not budget.try_reserve(1, 7)
    assert budget.try_reserve(1, 10)
    nursery.start_soon(hold_limited, 3)
    await trio.testing.wait_all_tasks_blocked()
    assert order == [3]
    limits[2] = 10
    budget.release(1)
    await trio.testing.wait_all_tasks_blocked()
    assert order == [3]
    budget.release(1)
    await trio.testing.wait_all_tasks_blocked()
    assert order == [3, 2]
    assert budget.held_bytes == 10


async def test_a_limit_that_has_changed(nursery: trio.Nursery) -> None:
    """What waits is let in where its limit has grown, as soon as the budget is told."""
    budget, limit = Budget(10), [5]
    assert budget.try_reserve(5)
    nursery.start_soon(budget.reserve, 3, lambda: limit[0])
    await trio.testing.wait_all_tasks_blocked()
    limit[0] = 10
    budget.admit()
    assert budget.held_bytes == 8


def test_releasing_too_much_is_a_bug() -> None:
    """Releasing what was never reserved is caught."""
    with pytest.raises(AssertionError, match="released more"):
        Budget(10).release(1)
