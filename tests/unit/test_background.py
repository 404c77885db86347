"""A bug in a background task is told in the log, and ends nothing else."""

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from radosmount.background import LOG_INTERVAL_S, contained, keep_running
from radosmount.cache.schedule import Schedule
from radosmount.config import ViewConfig
from radosmount.errors import StoreFailure
from radosmount.store.memory import MemoryStore
from radosmount.vfs.directories import IMPLIED_FRESHNESS_S
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench, started
from tests.support.readers import CONTENT, STEP, is_read, read_bench
from tests.support.stores import CacheBench, is_call, key_of

pytestmark = pytest.mark.expects_log("unexpected")


async def test_a_bug_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong inside is in the log, with its traceback."""
    with contained("looking about"):
        raise RuntimeError("a bug")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("looking about")
    assert record.exc_info is not None


async def test_cancelling_passes() -> None:
    """The end of the mount ends what runs in the background."""
    with trio.CancelScope() as scope:
        scope.cancel()
        with contained("looking about"):
            await trio.lowlevel.checkpoint()
        pytest.fail("went on")
    assert scope.cancelled_caught


async def test_a_task_begins_anew(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A task that is to run until the end begins anew after a bug; one that returns does not."""
    begun_s: list[float] = []

    async def task() -> None:
        begun_s.append(trio.current_time())
        if len(begun_s) < 3:
            raise RuntimeError("a bug")

    await keep_running("looking about", task)
    assert len(begun_s) == 3
    assert begun_s[0] < begun_s[1] < begun_s[2] < begun_s[0] + 10


async def test_a_log_that_is_not_flooded(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong again and again is told once a minute; anything else at once."""

    def tell(what: str) -> int:
        caplog.clear()
        with contained(what):
            raise RuntimeError("a bug")
        return sum(record.levelno >= logging.WARNING for record in caplog.records)

    assert [tell("this"), tell("this"), tell("that")] == [1, 0, 1]
    await trio.sleep(LOG_INTERVAL_S)
    assert [tell("this"), tell("this")] == [1, 0]


# --- Each task of a mount


async def test_writing_back_goes_on(
    bench: CacheBench,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a bug keeps from being written back is that file alone, for as long as it does."""
    for name in (b"first", b"hit", b"last"):
        await bench.cache.write(bench.new_file(name, writer_count=0), 0, b"abc")
    hit = list(bench.cache._dirty.values())[1]
    is_due = Schedule.is_due

    def be_wrong(self: Schedule, now_s: float, expire_s: float) -> bool:
        assert self is not hit, "a bug"
        return is_due(self, now_s, expire_s)

    monkeypatch.setattr(Schedule, "is_due", be_wrong)
    nursery.start_soon(bench.cache.run)
    await trio.sleep(60)
    assert [bench.stored(name) for name in (b"first", b"hit", b"last")] == [b"abc", None, b"abc"]
    monkeypatch.undo()
    await trio.sleep(60)
    assert bench.stored(b"hit") == b"abc"


@pytest.mark.parametrize("step", ["_look_for_stalls", "_relieve"])
async def test_each_step_of_writing_back(
    bench: CacheBench,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """A bug in what is done beside does not keep files from being written back, however often."""

    def be_wrong() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.cache, step, be_wrong)
    nursery.start_soon(bench.cache.run)
    for name in (b"f", b"later"):
        await bench.cache.write(bench.new_file(name, writer_count=0), 0, b"abc")
        await trio.sleep(60)
        assert bench.stored(name) == b"abc"


async def test_the_write_back_begins_anew(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it: a file that is written later is written back."""

    class Wrong:
        def __bool__(self) -> bool:
            raise RuntimeError("a bug")

    mount = MountBench(nursery)
    monkeypatch.setattr(mount.fs._cache, "_is_ending", Wrong())
    await mount.fs.start()
    await wait_all_tasks_blocked()
    monkeypatch.undo()
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.fs._opens.handles[handle].file.writer_count = 0
    await trio.sleep(60)
    assert mount.stored(b"f") == b"abc"


async def test_pools_are_watched_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A bug when pools are asked for: a pool that is made later is probed all the same."""
    mount = MountBench(nursery, MemoryStore(pools=(b"a",)), ViewConfig())
    mount.store.fail_next(RuntimeError("a bug"), is_call("refresh_pools"))
    await mount.fs.start()
    await wait_all_tasks_blocked()
    pool_id = mount.store.add_pool(b"secret")
    mount.store.set_caps(pool_id, is_readable=False, is_writable=False)
    await trio.sleep(60)
    assert await mount.names() == [b"a"]


async def test_stats_ahead(mount: MountBench) -> None:
    """A bug in one costs the round trip; the others come, and the file is as it is."""
    for number in range(30):
        mount.store.put_now(key_of(b"%02d" % number), bytes(number))
    mount.store.fail_next(
        RuntimeError("a bug"), lambda call: call.method == "stat" and call.key == key_of(b"12")
    )
    names = await mount.names()
    directory = mount.fs.open_directory(ROOT_INO)
    for index in range(len(names)):
        entry = await mount.fs.list_entry(directory, index)
        assert entry is not None
        mount.fs.take_entry(entry, is_taken=True)
    for name in names:
        assert (await mount.stat(name)).size == int(name)
        await wait_all_tasks_blocked()
    await mount.fs.release_directory(directory)


async def test_stats_that_a_listing_needs(nursery: trio.Nursery) -> None:
    """What a listing must tell, and a bug hides, is an error, never a name that is missing. The
    next listing has all."""
    store = MemoryStore(has_posix=True)
    mount = await started(nursery, store=store, view=ViewConfig(pool=b"assets", has_posix=True))
    for number in range(100):
        store.put_now(key_of(b"%02d" % number), b"")
    for _ in range(40):
        store.fail_next(RuntimeError("a bug"), is_call("stat"))
    with pytest.raises(StoreFailure):
        await mount.names()
    await wait_all_tasks_blocked()
    store._failures.clear()
    assert len(await mount.names()) == 100


async def test_reading_ahead(nursery: trio.Nursery) -> None:
    """Who reads on asks the store, and has all of the file."""
    async with read_bench(nursery) as mount:
        mount.store.fail_next(RuntimeError("a bug"), is_read, skip_count=3)
        handle = await mount.begin()
        assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]


async def test_names_that_are_listed_anew(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Directories are looked up by what was known, and the next listing in the background may
    find the new ones."""
    bench = await started(nursery)
    bench.store.put_now(key_of(b"known/f"), b"")
    await bench.stat(b"known")
    bench.store.put_now(key_of(b"new/f"), b"")
    await trio.sleep(IMPLIED_FRESHNESS_S + 1)
    bench.store.fail_next(RuntimeError("a bug"), is_call("list_objects"))
    for _ in range(2):
        await bench.stat(b"known")
        await wait_all_tasks_blocked()
    assert b"new" in await bench.names()
    await bench.stat(b"new")
