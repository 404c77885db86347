"""Which operations may be in flight: bounds, turns and order. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radosmount.store.interface import ObjectKey
from radosmount.store.rados.native._native import Admission, Operation, ReadOperation

LANE_COUNT_MAX, LANE_BYTES_MAX, BYTES_MAX = 2, 100, 150


def carrying(byte_count: int = 0) -> Operation:
    operation = ReadOperation(ObjectKey(1, b"", b"any"))
    operation.byte_count = byte_count
    return operation


@pytest.fixture
def admission() -> Admission:
    return Admission(LANE_COUNT_MAX, LANE_BYTES_MAX, BYTES_MAX)


def test_a_lane_is_bounded_and_first_in_first_out(admission: Admission) -> None:
    first, second, third, fourth = (carrying() for _ in range(4))
    assert admission.enter("a", first)
    assert admission.enter("a", second)
    assert not admission.enter("a", third)
    assert not admission.enter("a", fourth)
    assert admission.leave(second) == [third]
    assert admission.leave(first) == [fourth]


def test_lanes_do_not_wait_for_each_other(admission: Admission) -> None:
    for _ in range(5):
        admission.enter("dead", carrying())
    assert admission.enter("other", carrying())


def test_bytes_of_a_lane_are_bounded(admission: Admission) -> None:
    large, small = carrying(90), carrying(20)
    assert admission.enter("a", large)
    assert not admission.enter("a", small)
    assert admission.leave(large) == [small]


def test_what_exceeds_every_bound_runs_alone(admission: Admission) -> None:
    huge, other = carrying(1000), carrying(1)
    assert admission.enter("a", huge)
    assert not admission.enter("b", other)
    assert admission.leave(huge) == [other]


def test_nothing_passes_a_large_one_that_waits_for_room(admission: Admission) -> None:
    """Or small ones of other lanes would keep it waiting for ever."""
    running, large, small = carrying(90), carrying(90), carrying(1)
    assert admission.enter("a", running)
    assert not admission.enter("b", large)
    assert not admission.enter("c", small)
    assert admission.leave(running) == [large, small]


def test_withdrawn_operations_do_not_run(admission: Admission) -> None:
    running, large, small = carrying(90), carrying(90), carrying(1)
    for lane, operation in (("a", running), ("b", large), ("c", small)):
        admission.enter(lane, operation)
    assert admission.withdraw(large)
    assert admission.started() == [small]
    assert not admission.withdraw(small), "it runs"
    assert admission.leave(running) == admission.leave(small) == []
    assert admission.is_idle


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "leave", "withdraw"]),
            st.integers(0, 3),
            st.sampled_from([0, 1, 40, 90, 120, 400]),
        ),
        max_size=60,
    )
)
def test_bounds_hold_and_nothing_is_forgotten(moves: list[tuple[str, int, int]]) -> None:
    """Whatever comes and goes: the bounds hold, who could run does, and all end in the end."""
    admission = Admission(LANE_COUNT_MAX, LANE_BYTES_MAX, BYTES_MAX)
    running: list[tuple[int, Operation]] = []
    waiting: list[tuple[int, Operation]] = []

    def note(started: list[Operation]) -> None:
        for operation in started:
            [entry] = [entry for entry in waiting if entry[1] is operation]
            assert entry == next(e for e in waiting if e[0] == entry[0]), "first in, first out"
            waiting.remove(entry)
            running.append(entry)

    def leave(index: int) -> None:
        _, operation = running.pop(index % len(running))
        note(admission.leave(operation))

    def check() -> None:
        total = sum(operation.byte_count for _, operation in running)
        assert (
            total <= BYTES_MAX
            or len(running) == 1
            or 0 in {total - operation.byte_count for _, operation in running}
        )
        for lane in range(4):
            mine = [operation for key, operation in running if key == lane]
            assert len(mine) <= LANE_COUNT_MAX
        assert running or not waiting, "somebody waits for nobody"

    for move, number, byte_count in moves:
        if move == "enter":
            operation = carrying(byte_count)
            if admission.enter(number, operation):
                running.append((number, operation))
            else:
                waiting.append((number, operation))
        elif move == "leave" and running:
            leave(number)
        elif move == "withdraw" and waiting:
            _, operation = waiting.pop(number % len(waiting))
            assert admission.withdraw(operation)
            note(admission.started())
        check()
    while running:
        leave(0)
        check()
    assert not waiting
    assert admission.is_idle
