"""A mount's life, with fakes for all that is outside of it."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest
import trio
import trio.testing

from radosmount.config import Config, ProcessConfig
from radosmount.errors import MountError, PermissionDenied, RadosmountError, TimedOut
from radosmount.lifecycle import Mount, OnReady, Parts, run
from radosmount.notify import ServiceManager
from radosmount.store.interface import Store

CONFIG = Config(process=ProcessConfig(flush_retry_delay_s=0.001, close_margin_s=0.5))


class World:
    """Store, file system and session in one: it writes down what happens to them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.refusals: list[RadosmountError] = []  # what the next flushes raise
        self.names = ["a"]
        self.spooled: list[str] = []
        self.on_refused: Callable[[], None] = lambda: None
        self.advanced_at_s = 0.0
        self.start_failure: Exception | None = None
        self.serve_failure: Exception | None = None
        self.fails_in_background = False
        self.fail = trio.Event()
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.on_ready: OnReady = lambda: None

    def parts(self) -> Parts:
        return Parts(self._open, self._make)

    async def _open(self, config: Config) -> Store:
        await trio.lowlevel.checkpoint()
        return cast(Store, self)

    def _make(
        self, store: Store, config: Config, nursery: trio.Nursery, on_ready: OnReady
    ) -> "tuple[World, World]":
        self.on_ready = on_ready
        if self.fails_in_background:
            nursery.start_soon(self._fail)
        return self, self

    async def _fail(self) -> None:
        await self.fail.wait()
        raise ZeroDivisionError

    async def aclose(self) -> None:
        self.events.append("close")

    async def start(self) -> None:
        if self.start_failure:
            raise self.start_failure

    async def flush_all(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusals:
            self.events.append("refused")
            self.on_refused()
            raise self.refusals.pop(0)
        self.events.append("flush")
        self.names.clear()

    async def spool_unwritten(self) -> None:
        await trio.lowlevel.checkpoint()
        self.spooled += self.names
        self.names = []

    def advanced_s(self) -> float:
        return self.advanced_at_s

    def dirty_bytes(self) -> int:
        return 10 * len(self.names)

    def unwritten(self) -> list[str]:
        return list(self.names)

    def mount(self) -> None:
        self.events.append("mount")

    async def serve(self) -> None:
        self.on_ready()
        self.ready.set()
        if self.serve_failure:
            raise self.serve_failure
        await self.ended.wait()

    def stop(self) -> None:
        self.events.append("stop")
        self.ended.set()

    def unmount(self) -> None:
        self.events.append("unmount")


class HeardService(ServiceManager):
    """One that writes down what it is told, and when."""

    def __init__(self) -> None:
        super().__init__("@systemd")
        self.heard: list[tuple[float, str]] = []

    def _send(self, message: str) -> None:
        self.heard.append((trio.current_time(), message))


async def live(
    world: World,
    then: Callable[[], None],
    config: Config = CONFIG,
    service: ServiceManager | None = None,
) -> int:
    """Live until the end, doing `then` once the mount is ready; the exit code."""
    service = service or ServiceManager(None)
    mount = Mount(config, lambda: world.events.append("ready"), world.parts(), service)
    exit_codes: list[int] = []

    async def run_mount() -> None:
        exit_codes.append(await mount.run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_mount)
        await world.ready.wait()
        then()
    return exit_codes[0]


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture
def heard_hangup() -> Iterator[None]:
    """A mount lets SIGHUP be ignored where it is already, as under nohup(1)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_hangup")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signal_flushes_then_unmounts(number: int) -> None:
    """SIGTERM and SIGINT flush and unmount; so does a terminal that closes."""
    world = World()
    assert await live(world, send(number)) == 0
    assert world.events == ["mount", "ready", "flush", "stop", "unmount", "flush", "close"]


async def test_unmount_from_outside_flushes_after() -> None:
    """Plain umount(8) returns at once and the daemon flushes after it."""
    world = World()
    assert await live(world, world.ended.set) == 0
    assert world.events == ["mount", "ready", "unmount", "flush", "close"]


@pytest.mark.expects_log("cannot write back yet")
async def test_transient_failures_are_tried_again() -> None:
    world = World()
    world.refusals = [TimedOut("no answer") for _ in range(5)]
    assert await live(world, world.ended.set) == 0
    assert world.events.count("refused") == 5
    assert world.events[-2:] == ["flush", "close"]


@pytest.mark.expects_log("cannot write back yet")
@pytest.mark.expects_log("not written to RADOS")
async def test_permanent_failures_end_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.refusals = [PermissionDenied("caps") for _ in range(100)]
    assert await live(world, world.ended.set) == 1
    assert "10 bytes of 1 files: a" in caplog.text
    assert world.spooled == ["a"]
    assert world.events[-1] == "close"


@pytest.mark.expects_log("cannot write back yet")
@pytest.mark.expects_log("not written to RADOS")
async def test_a_second_signal_gives_up() -> None:
    """What is left then goes to the spool."""
    world = World()
    world.refusals = [TimedOut("no answer") for _ in range(1_000_000)]

    world.on_refused = send(signal.SIGTERM)
    assert await live(world, send(signal.SIGTERM)) == 1
    assert world.spooled == ["a"]
    assert world.events[-1] == "close"


def without_answers() -> World:
    world = World()
    world.refusals = [TimedOut("no answer") for _ in range(10_000)]
    return world


@pytest.mark.expects_log("cannot write back yet")
@pytest.mark.expects_log("not written to RADOS")
@pytest.mark.expects_log("giving up on RADOS")
@pytest.mark.parametrize("is_service", [False, True], ids=["signal", "service"])
async def test_an_end_without_answers_is_given_up(
    is_service: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After one signal, or unmounted where systemd waits for it: as soon as RADOS has acknowledged
    nothing for `stall_limit_s`. systemd leaves time for the spool, and no more than that."""
    world, service = without_answers(), HeardService()
    then = world.ended.set if is_service else send(signal.SIGTERM)
    began_s = trio.current_time()
    assert await live(world, then, Config(), service if is_service else None) == 1
    assert 90 <= trio.current_time() - began_s < 100
    assert world.spooled == ["a"]
    assert world.events[-1] == "close"
    assert "which has acknowledged nothing for 90 s" in caplog.text
    extensions = [at_s for at_s, message in service.heard if "EXTEND_TIMEOUT" in message]
    assert not extensions or max(extensions) - began_s <= 90
    assert is_service == (service.heard[-1:] == [(began_s + 90, "EXTEND_TIMEOUT_USEC=95000000")])


@pytest.mark.expects_log("cannot write back yet")
async def test_an_end_that_gets_on_is_not_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """However long it takes."""
    world, began_s = without_answers(), trio.current_time()

    def answer_now_and_then() -> None:
        passed_s = trio.current_time() - began_s
        if passed_s % 80 < 1:
            world.advanced_at_s = trio.current_time()
        if passed_s > 1000:
            world.refusals = [TimedOut("no answer")]

    world.on_refused = answer_now_and_then
    assert await live(world, send(signal.SIGTERM), Config()) == 0
    assert trio.current_time() - began_s > 1000
    assert world.spooled == []


@pytest.mark.expects_log("cannot write back yet")
async def test_an_umount_alone_waits_for_rados(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody waits for its end, so the bytes wait for RADOS."""
    world, began_s = without_answers(), trio.current_time()
    del world.refusals[1000:]
    assert await live(world, world.ended.set, Config()) == 0
    assert trio.current_time() - began_s >= 1000
    assert world.spooled == []


@pytest.mark.expects_log("cannot write back yet")
async def test_progress_is_told(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end: every few seconds to the log and to systemd, which gives more time for each."""
    world, service = without_answers(), HeardService()
    del world.refusals[12:]
    caplog.set_level(logging.INFO)
    assert await live(world, send(signal.SIGTERM), Config(), service) == 0
    left = "writing back: 10 bytes left in 1 files"
    assert caplog.messages.count(left) == 2
    told = [message for _, message in service.heard]
    extension = "EXTEND_TIMEOUT_USEC=30000000"
    assert told[:2] == ["READY=1\nSTATUS= on ", "STOPPING=1\nSTATUS=writing back"]
    assert told[2:7] == [extension, f"STATUS={left}", extension, f"STATUS={left}", extension]


async def test_an_end_by_cancellation_spools() -> None:
    """Also where a bug in the background ends it."""
    world = World()
    world.fails_in_background = True
    with pytest.RaisesGroup(ZeroDivisionError, allow_unwrapped=True, flatten_subgroups=True):
        await live(world, world.fail.set)
    assert world.spooled == ["a"]
    assert world.events[-2:] == ["unmount", "close"]


@pytest.mark.expects_log("cannot write back yet")
async def test_signal_after_umount_does_not_cut_the_flush() -> None:
    """systemd sends SIGTERM right after the umount of a .mount unit."""
    world = World()
    world.refusals = [TimedOut("no answer") for _ in range(20)]

    def unmount_and_signal() -> None:
        world.ended.set()
        os.kill(os.getpid(), signal.SIGTERM)

    assert await live(world, unmount_and_signal) == 0
    assert world.events[-2:] == ["flush", "close"]


@pytest.mark.expects_log("cannot write back yet")
@pytest.mark.expects_log("not written to RADOS")
async def test_second_signal_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.refusals = [TimedOut("no answer") for _ in range(100_000)]
    mount = Mount(CONFIG, lambda: None, world.parts(), ServiceManager(None))
    exit_codes = []

    async def run_mount() -> None:
        exit_codes.append(await mount.run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_mount)
        await world.ready.wait()
        for count in (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)
            while world.events.count("refused") < count and not exit_codes:
                await trio.lowlevel.checkpoint()
    assert exit_codes == [1]
    assert "not written to RADOS" in caplog.text
    assert "unmount" in world.events


@pytest.mark.expects_log("serving ended unexpectedly")
async def test_a_bug_in_serving_still_flushes(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.serve_failure = ValueError("oops")
    assert await live(world, lambda: None) == 1
    assert world.events == ["mount", "ready", "unmount", "flush", "close"]
    assert "ValueError: oops" in caplog.text


def test_failure_before_ready_is_one_line() -> None:
    """A nursery's group does not hide the reason from the user."""
    world = World()
    world.start_failure = MountError("no such pool: assets")
    with pytest.raises(MountError, match="no such pool: assets"):
        run(CONFIG, lambda: None, world.parts())
    assert world.events == ["close"]


@pytest.mark.expects_log("unexpected failure")
def test_a_bug_before_ready_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    """The parent of a daemon hears of it; the log has the traceback."""
    world = World()
    world.start_failure = ValueError("oops")
    with pytest.raises(MountError, match=r"unexpected failure: ValueError\('oops'\)"):
        run(CONFIG, lambda: None, world.parts())
    assert "Traceback" in caplog.text


def test_signal_while_connecting_gives_up() -> None:
    async def connect(config: Config) -> Store:
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(MountError, match="interrupted"):
        run(CONFIG, lambda: None, replace(World().parts(), open_store=connect))
