"""One connection after the other, with memory stores in place of clusters."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from radosmount.config import StoreConfig
from radosmount.errors import Disconnected, MountError, TimedOut
from radosmount.store.interface import Change, WriteFull
from radosmount.store.memory import MemoryStore
from radosmount.store.rados import lasting
from radosmount.store.rados.lasting import LastingStore
from tests.support.stores import is_call, key_of

KEY = key_of(b"o")
CUT_OFF = pytest.mark.expects_log("cut this client off|connected anew|not connected")
CHANGE = Change((WriteFull(b"new"),), mtime_s=1)


class Cluster:
    """Each connection sees the same object. `open_next` may be replaced."""

    def __init__(self) -> None:
        self.connections: list[MemoryStore] = []
        self.failures: list[Exception] = []

    def connection(self) -> MemoryStore:
        store = MemoryStore()
        store.put_now(KEY, b"content")
        self.connections.append(store)
        return store

    async def open(self, _: StoreConfig) -> MemoryStore:
        await trio.sleep(0.5)
        if self.failures:
            raise self.failures.pop(0)
        return self.connection()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(lasting, "open_rados_store", cluster.open)
    return cluster


@pytest.fixture
def store(cluster: Cluster) -> Callable[[], LastingStore]:
    return lambda: LastingStore(StoreConfig(timeout_s=10), cluster.connection())  # type: ignore[arg-type]


def cut_off(store: MemoryStore) -> None:
    for _ in range(20):
        store.fail_next(Disconnected("blocklisted"))


@CUT_OFF
async def test_reading_goes_on(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    """All that meet it wait for one connection."""
    lasting_store = store()
    cut_off(cluster.connections[0])
    found: list[bytes] = []

    async def read() -> None:
        found.append((await lasting_store.read(KEY, 0, 10)).data)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
    assert found == [b"content"] * 5
    assert len(cluster.connections) == 2
    await lasting_store.aclose()


@CUT_OFF
async def test_a_change_is_not_made_twice(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    """It fails; the next one waits, and goes by the new connection."""
    lasting_store = store()
    cut_off(cluster.connections[0])
    with pytest.raises(Disconnected):
        await lasting_store.apply(KEY, CHANGE)
    await lasting_store.apply(KEY, CHANGE)
    assert [len(connection.changes) for connection in cluster.connections] == [0, 1]
    await lasting_store.aclose()


@CUT_OFF
async def test_who_is_not_let_in_tries_again(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    """A monitor that does not answer, and a connection that is cut off as the first was."""
    lasting_store = store()
    cut_off(cluster.connections[0])
    cluster.failures = [MountError("no monitor")]
    assert (await lasting_store.stat(KEY)).size == 7
    cut_off(cluster.connections[1])
    assert (await lasting_store.stat(KEY)).size == 7
    assert len(cluster.connections) == 3
    await lasting_store.aclose()


@CUT_OFF
async def test_no_connection_for_long(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    """Whoever waits hears of it after `timeout`, and it goes on all the same."""
    lasting_store = store()
    cut_off(cluster.connections[0])
    cluster.failures = [MountError("no monitor")] * 6
    began_s = trio.current_time()
    with pytest.raises(Disconnected):
        await lasting_store.stat(KEY)
    assert trio.current_time() - began_s == pytest.approx(10, abs=0.1)
    await trio.sleep(60)
    assert (await lasting_store.stat(KEY)).size == 7
    await lasting_store.aclose()


@CUT_OFF
async def test_the_end_while_connecting(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    """Nobody waits for the connection, and those who did hear of it."""
    lasting_store = store()
    cut_off(cluster.connections[0])
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def stat() -> None:
            with pytest.raises(Disconnected):
                await lasting_store.stat(KEY)

        await wait_all_tasks_blocked()
        await lasting_store.aclose()
    assert len(cluster.connections) == 1


# --- Monitors


def silence(store: MemoryStore, *methods: str) -> None:
    for method in methods:
        store.fail_next(TimedOut("no answer"), is_call(method))


async def doubted(lasting_store: LastingStore) -> None:
    with pytest.raises(TimedOut):
        await lasting_store.stat(KEY)
    await trio.sleep(5)


@CUT_OFF
async def test_monitors_that_are_elsewhere(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    lasting_store = store()
    silence(cluster.connections[0], "stat", "usage", "usage")
    await doubted(lasting_store)
    assert len(cluster.connections) == 2
    await lasting_store.apply(KEY, CHANGE)
    assert [len(connection.changes) for connection in cluster.connections] == [0, 1]
    await lasting_store.aclose()


async def test_only_an_osd_does_not_answer(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    """The monitors do: there is nothing to look for."""
    lasting_store = store()
    silence(cluster.connections[0], "stat")
    await doubted(lasting_store)
    assert len(cluster.connections) == 1
    await lasting_store.aclose()


async def test_a_monitor_that_comes_back(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    """The connection that was tried is let go."""
    lasting_store = store()
    silence(cluster.connections[0], "stat", "usage")
    await doubted(lasting_store)
    assert len(cluster.connections) == 2
    await lasting_store.apply(KEY, CHANGE)
    assert [len(connection.changes) for connection in cluster.connections] == [1, 0]
    await lasting_store.aclose()


async def test_another_cluster_is_none_of_ours(
    cluster: Cluster,
    store: Callable[[], LastingStore],
    autojump_clock: MockClock,
) -> None:
    lasting_store = store()
    cluster.connections[0].cluster_id = "ours"
    silence(cluster.connections[0], "stat", "usage", "usage")
    await doubted(lasting_store)
    await lasting_store.apply(KEY, CHANGE)
    assert [len(connection.changes) for connection in cluster.connections] == [1, 0]
    await lasting_store.aclose()


@CUT_OFF
async def test_a_dead_cluster_is_asked_again_later(
    cluster: Cluster, store: Callable[[], LastingStore], autojump_clock: MockClock
) -> None:
    lasting_store = store()
    cluster.failures = [MountError("no monitor")]
    silence(cluster.connections[0], "stat", "usage")
    await doubted(lasting_store)
    assert len(cluster.connections) == 1
    silence(cluster.connections[0], "stat", "stat", "usage", "usage")
    await doubted(lasting_store)  # too early
    assert len(cluster.connections) == 1
    await trio.sleep(lasting.SEARCH_INTERVAL_S)
    await doubted(lasting_store)
    assert len(cluster.connections) == 2
    await lasting_store.apply(KEY, CHANGE)
    assert len(cluster.connections[1].changes) == 1
    await lasting_store.aclose()
