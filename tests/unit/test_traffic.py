"""What becomes of operations that are too old, without a cluster: none gets as far as that."""

from collections.abc import Iterator

import pytest

from radosmount.errors import InvalidArgument, PoolGone, StoreFailure, TimedOut
from radosmount.store.interface import ObjectKey
from radosmount.store.rados.native._native import (
    Admission,
    Handle,
    Ioctx,
    Operation,
    ReadOperation,
    Traffic,
)


def carrying(byte_count: int) -> Operation:
    operation = ReadOperation(ObjectKey(1, b"", b"any"))
    operation.byte_count = byte_count
    return operation


def no_ioctx(key: ObjectKey) -> Ioctx:
    raise PoolGone(f"pool {key.pool_id}")


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    """Where every operation fails that is submitted."""
    handle = Handle("ceph", "client.admin")
    admission = Admission(lane_count_max=2, lane_bytes_max=100, bytes_max=150)
    yield Traffic(handle, admission, no_ioctx, lambda key, code: StoreFailure(str(code)))
    handle.shutdown()


def test_one_that_is_answered_while_others_are_refused(traffic: Traffic) -> None:
    """A large one that is too old stood before a small one: that begins, and fails at once."""
    running, large, small = carrying(90), carrying(90), carrying(1)
    assert traffic.admission.enter(1, running)
    for operation in (large, small):
        traffic.send_droppable(operation, 0.0)
    traffic.refuse_overdue(lambda: TimedOut("late"))
    assert isinstance(large.failure, TimedOut)
    assert isinstance(small.failure, PoolGone)
    assert traffic.admission.leave(running) == []
    assert traffic.admission.is_idle


def test_the_young_are_not_refused(traffic: Traffic) -> None:
    running, old, young = carrying(100), carrying(1), carrying(1)
    assert traffic.admission.enter(1, running)
    traffic.send_droppable(old, 0.0)
    traffic.send_droppable(young, 3600.0)
    traffic.refuse_overdue(lambda: TimedOut("late"))
    assert isinstance(old.failure, TimedOut)
    assert young.failure is None


def test_one_that_was_not_sent_can_be_left() -> None:
    """Nobody but a bug awaits it; that must not crash the mount."""
    assert ReadOperation(ObjectKey(1, b"", b"any")).abandon() is not None


@pytest.mark.parametrize("name", [b"", b"a\0b"])
def test_names_that_librados_would_cut(name: bytes) -> None:
    with pytest.raises(InvalidArgument):
        ReadOperation(ObjectKey(1, b"", name))
