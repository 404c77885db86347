"""What MemoryStore offers to tests beyond the contract."""

import pytest
import trio
import trio.testing

from radosmount import errors
from radosmount.store.interface import AtVersion, Change, Create, ObjectKey, Remove, WriteFull
from radosmount.store.memory import Call, MemoryStore

KEY = ObjectKey(1, b"", b"object")
T0 = 1_500_000_000


def rewrite(data: bytes) -> Change:
    return Change((WriteFull(data),), mtime_s=T0)


def is_apply(call: Call) -> bool:
    return call.method == "apply"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_paused_holds_calls_until_the_end(store: MemoryStore) -> None:
    async with trio.open_nursery() as nursery:
        with store.paused():
            nursery.start_soon(store.apply, KEY, rewrite(b"x"))
            await trio.testing.wait_all_tasks_blocked()
            assert store.read_now(KEY) is None
    assert store.read_now(KEY) == b"x"


async def test_a_call_cancelled_in_a_pause_still_happens(store: MemoryStore) -> None:
    with store.paused():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.apply, KEY, rewrite(b"x"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert store.read_now(KEY) is None
    assert store.read_now(KEY) == b"x"
    assert store.changes == [(KEY, rewrite(b"x"))]


async def test_delay(store: MemoryStore, autojump_clock: trio.testing.MockClock) -> None:
    """Any awaiting, for some calls only: the test's clock decides."""

    async def delay(call: Call) -> None:
        if is_apply(call):
            await trio.sleep(60)

    store.delay = delay
    begin_s = trio.current_time()
    await store.apply(KEY, rewrite(b"x"))
    assert trio.current_time() - begin_s == pytest.approx(60)
    await store.stat(KEY)
    assert trio.current_time() - begin_s == pytest.approx(60)


async def test_failure_before(store: MemoryStore) -> None:
    store.fail_next(errors.NoSpace("full"), is_apply, skip_count=1)
    await store.apply(KEY, rewrite(b"1"))
    with pytest.raises(errors.NoSpace):
        await store.apply(KEY, rewrite(b"2"))
    assert store.read_now(KEY) == b"1"
    await store.apply(KEY, rewrite(b"3"))
    assert store.read_now(KEY) == b"3"


async def test_lost_reply(store: MemoryStore) -> None:
    """The change is applied, and the caller is told that it timed out."""
    store.fail_next(errors.TimedOut("lost"), is_apply, applied=True)
    with pytest.raises(errors.TimedOut):
        await store.apply(KEY, rewrite(b"x"))
    assert store.read_now(KEY) == b"x"
    assert len(store.changes) == 1


async def test_foreign_changes(store: MemoryStore) -> None:
    """They take place at once, count as versions, and are not in `changes`."""
    version = await store.apply(KEY, rewrite(b"ours"))
    store.put_now(KEY, b"theirs")
    with pytest.raises(errors.VersionConflict):
        await store.apply(KEY, Change((WriteFull(b"again"),), AtVersion(version), T0))
    store.remove_now(KEY)
    assert store.stat_now(KEY) is None
    assert store.changes == [(KEY, rewrite(b"ours"))]


async def test_quota_and_full(store: MemoryStore) -> None:
    """Growth is refused; rewriting in place and removing go through."""
    store.put_now(KEY, b"12345")
    store.set_quota(1, quota_bytes=6)
    with pytest.raises(errors.QuotaExceeded):
        await store.apply(KEY, rewrite(b"1234567"))
    await store.apply(KEY, rewrite(b"123456"))
    store.set_quota(1)
    store.is_full = True
    with pytest.raises(errors.NoSpace):
        await store.apply(KEY._replace(name=b"other"), Change((Create(),), mtime_s=T0))
    await store.apply(KEY, Change((Remove(),)))
    assert store.read_now(KEY) is None
