"""One mount, from connecting to its orderly end.

    CONNECTING --> SERVING --> FLUSHING --> (unmounted, flushed again, store closed)

- The first SIGTERM, SIGINT or SIGHUP gives up while CONNECTING; while SERVING it flushes,
  unmounts and ends. The next one no longer waits for what RADOS does not take. Nor does the first
  once RADOS has acknowledged nothing for `stall_limit_s`: systemd sends no second one.
- What RADOS has not taken by the end goes to the spool, whichever way it comes to the end.
- An unmount from outside (umount, fusermount3 -u) ends SERVING, and all is flushed after it.
  systemd sends SIGTERM to the processes of a .mount unit right after umount, so this first
  signal does not shorten the flush.
- Whatever happens, the mount does not stay behind without its process.

Knows the parts of a mount by the few methods below only; app.py makes them.
"""

import enum
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from radosmount.config import Config
from radosmount.errors import DeadlineExceeded, MountError, RadosmountError, StoreError
from radosmount.notify import ServiceManager
from radosmount.store.interface import Store

log = logging.getLogger(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
NAMES_SHOWN_MAX: Final = 20
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Filesystem(Protocol):
    async def start(self) -> None:
        """Raises: MountError, as when there is no such pool."""

    async def flush_all(self) -> None:
        """Raises the first error, and keeps what could not be written."""

    async def spool_unwritten(self) -> None:
        """Keep elsewhere what is not in RADOS, and write nothing more. May be called again, also
        meanwhile: each call waits until all of it is kept, or said in the log to be lost."""

    def advanced_s(self) -> float:
        """When RADOS last acknowledged something new (`trio.current_time`)."""

    def dirty_bytes(self) -> int: ...
    def unwritten(self) -> list[str]: ...


class Session(Protocol):
    def mount(self) -> None: ...
    async def serve(self) -> None: ...
    def stop(self) -> None: ...
    def unmount(self) -> None: ...


OnReady = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """How the parts of a mount are made. Tests put fakes here."""

    open_store: Callable[[Config], Awaitable[Store]]
    make: Callable[[Store, Config, trio.Nursery, OnReady], tuple[Filesystem, Session]]


class Stage(enum.Enum):
    CONNECTING = "connecting"
    SERVING = "serving"
    FLUSHING = "flushing"


def run(config: Config, announce_ready: OnReady, parts: Parts) -> int:
    """Mount and serve until the end; return the exit code.

    `announce_ready` is called once the mount answers.
    Raises: MountError, one plain line, if it never comes to that.
    """
    # In the background NOTIFY_SOCKET is not meant for us, but for whoever called us.
    service = ServiceManager.of(os.environ if config.is_foreground else {})
    mount = Mount(config, announce_ready, parts, service)
    try:
        return trio.run(mount.run)
    except BaseException as failure:
        cause = sole_cause(failure)
        if isinstance(cause, RadosmountError) and not mount.is_ready:
            raise MountError(str(cause)) from failure
        log.critical("ending after an unexpected failure", exc_info=failure)
        if not mount.is_ready:
            raise MountError(f"unexpected failure: {cause!r} (the log has more)") from failure
        return EXIT_FAILED


def sole_cause(failure: BaseException) -> BaseException:
    """A nursery wraps what its tasks raise, one group a level."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure


def is_worth_retrying(failure: RadosmountError) -> bool:
    if isinstance(failure, StoreError):
        return failure.is_transient
    return isinstance(failure, DeadlineExceeded)


async def cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class Mount:
    """The life of one mount. `is_ready`: it has answered the kernel."""

    def __init__(
        self, config: Config, announce_ready: OnReady, parts: Parts, service: ServiceManager
    ) -> None:
        self._config = config
        self._announce_ready = announce_ready
        self._parts = parts
        self._service = service
        self._stage = Stage.CONNECTING
        self._connecting = trio.CancelScope()
        self._stop_asked = trio.Event()
        self._gave_up = trio.Event()
        self._filesystem: Filesystem | None = None
        self._session: Session | None = None
        self.is_ready = False

    async def run(self) -> int:
        exit_code = EXIT_FAILED
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals)
            nursery.start_soon(self._leave_when_given_up)
            with self._connecting:
                exit_code = await self._live()
            if self._connecting.cancelled_caught:
                raise MountError("interrupted before the mount was ready")
            nursery.cancel_scope.cancel()
        return exit_code

    async def _watch_signals(self, task_status: "trio.TaskStatus[None]") -> None:
        numbers = set(STOP_SIGNALS)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup(1)
            numbers.remove(signal.SIGHUP)
        with trio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                log.info("got %s", signal.Signals(number).name)
                if self._stage is Stage.CONNECTING:
                    self._connecting.cancel()
                event = self._gave_up if self._stop_asked.is_set() else self._stop_asked
                event.set()

    async def _leave_when_given_up(self) -> None:
        """Once given up: store threads that hang must not keep the process."""
        await self._gave_up.wait()
        process = self._config.process
        left_s = process.close_margin_s + process.spool_limit_s
        self._service.extend_timeout(left_s + process.stop_extension_s)
        await trio.sleep(process.close_margin_s)
        if self._filesystem is not None:
            with trio.move_on_after(process.spool_limit_s):
                await self._filesystem.spool_unwritten()
        if self._session is not None:
            self._session.unmount()
        log.error("leaving without an orderly end")
        os._exit(EXIT_FAILED)

    async def _live(self) -> int:
        store = await self._parts.open_store(self._config)
        try:
            async with trio.open_nursery() as nursery:
                filesystem, session = self._parts.make(store, self._config, nursery, self._announce)
                await filesystem.start()
                exit_code = await self._mount_and_serve(filesystem, session)
                nursery.cancel_scope.cancel()
        finally:
            await self._close(store)
        return exit_code

    async def _mount_and_serve(self, filesystem: Filesystem, session: Session) -> int:
        self._session = session
        session.mount()
        self._filesystem = filesystem
        self._stage = Stage.SERVING
        try:
            exit_code = await self._serve_and_flush(filesystem, session)
            return exit_code if self._is_all_written(filesystem) else EXIT_FAILED
        finally:
            with trio.CancelScope(shield=True):
                await filesystem.spool_unwritten()

    async def _serve_and_flush(self, filesystem: Filesystem, session: Session) -> int:
        exit_code = EXIT_OK
        try:
            await self._serve(filesystem, session)
        except Exception:
            log.critical("serving ended unexpectedly", exc_info=True)
            exit_code = EXIT_FAILED
        finally:
            session.unmount()
        self._stage = Stage.FLUSHING
        await self._flush(filesystem)
        return exit_code

    def _announce(self) -> None:
        self.is_ready = True
        fuse = self._config.fuse
        log.info("mounted %s on %s", fuse.source, fuse.mountpoint)
        self._announce_ready()
        self._service.ready(f"{fuse.source} on {fuse.mountpoint}")

    async def _serve(self, filesystem: Filesystem, session: Session) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_asked, filesystem, session)
            nursery.start_soon(cancel_when, self._gave_up, nursery.cancel_scope)
            await session.serve()
            nursery.cancel_scope.cancel()

    async def _stop_when_asked(self, filesystem: Filesystem, session: Session) -> None:
        """Most is flushed while the mount still answers, so that a reader of it never waits."""
        await self._stop_asked.wait()
        self._stage = Stage.FLUSHING
        await self._flush(filesystem)
        session.stop()

    async def _flush(self, filesystem: Filesystem) -> None:
        """Write back until all is in RADOS, nothing more can be, or it is given up."""
        self._service.stopping("writing back")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_progress, filesystem)
            nursery.start_soon(self._give_up_when_stuck, filesystem)
            nursery.start_soon(cancel_when, self._gave_up, nursery.cancel_scope)
            await self._flush_with_retries(filesystem)
            nursery.cancel_scope.cancel()

    async def _flush_with_retries(self, filesystem: Filesystem) -> None:
        left_before = None
        while True:
            try:
                return await filesystem.flush_all()
            except RadosmountError as failure:
                log.warning("cannot write back yet: %s", failure)
                left = filesystem.dirty_bytes()
                # One file's permanent failure may hide others that only need time.
                if left == left_before and not is_worth_retrying(failure):
                    return None
            left_before = left
            await trio.sleep(self._config.process.flush_retry_delay_s)

    async def _give_up_when_stuck(self, filesystem: Filesystem) -> None:
        """As a second signal would. After an umount that no signal follows nobody waits for the
        end, so the bytes may wait for RADOS."""
        if not self._service.is_there:
            await self._stop_asked.wait()
        limit_s = self._config.process.stall_limit_s
        deadline_s = trio.current_time() + limit_s
        while trio.current_time() < deadline_s:
            await trio.sleep_until(deadline_s)
            deadline_s = max(deadline_s, filesystem.advanced_s() + limit_s)
        log.error("giving up on RADOS, which has acknowledged nothing for %g s", limit_s)
        self._gave_up.set()

    async def _report_progress(self, filesystem: Filesystem) -> None:
        process = self._config.process
        while True:
            self._service.extend_timeout(process.stop_extension_s)
            await trio.sleep(process.progress_interval_s)
            left = f"{filesystem.dirty_bytes()} bytes left in {len(filesystem.unwritten())} files"
            log.info("writing back: %s", left)
            self._service.status(f"writing back: {left}")

    def _is_all_written(self, filesystem: Filesystem) -> bool:
        names = filesystem.unwritten()
        if not names:
            return True
        shown = ", ".join(names[:NAMES_SHOWN_MAX]) + (" …" if names[NAMES_SHOWN_MAX:] else "")
        log.error(
            "not written to RADOS: %d bytes of %d files: %s",
            filesystem.dirty_bytes(),
            len(names),
            shown,
        )
        return False

    async def _close(self, store: Store) -> None:
        limit_s = self._config.store.timeout_s + self._config.process.close_margin_s
        with trio.move_on_after(limit_s, shield=True) as scope:
            await store.aclose()
        if scope.cancelled_caught:
            log.error("some calls to RADOS never ended")
