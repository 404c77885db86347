"""The FUSE session: mounting, serving requests, unmounting. One a process (pyfuse3's globals).

Not the requests themselves: those are operations.py's.

    NEW --mount--> MOUNTED --serve--> SERVING --> SERVED --unmount--> ENDED
                      \\------------------------------------unmount--/
"""

import enum
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pyfuse3
import trio

from radosmount.config import FuseConfig
from radosmount.errors import MountError
from radosmount.fuse import mounting, mounts, server
from radosmount.fuse.invalidation import InvalidationThread
from radosmount.fuse.operations import Operations
from radosmount.fuse.server import Server

log = logging.getLogger(__name__)

# pyfuse3 reads /dev/fuse blocking and with the GIL held. If the caller of the request is killed
# between epoll and read, the whole process would stand still until the next request comes: the
# alarm ends that read with EINTR, which pyfuse3 takes as "try again".
FREEZE_GUARD_S: Final = 0.25
# A thread that computes delays the loop by up to this. Python's 5 ms is 100 requests.
SWITCH_INTERVAL_S: Final = 0.0002


class State(enum.Enum):
    NEW = "new"
    MOUNTED = "mounted"
    SERVING = "serving"
    SERVED = "served"
    ENDED = "ended"


def kernel_cache(config: FuseConfig) -> InvalidationThread:
    """What drops the kernel's cached pages and attributes; a Session starts and ends it."""
    return InvalidationThread(
        lambda inode: pyfuse3.invalidate_inode(pyfuse3.InodeT(inode)),
        config.invalidation_count_max,
    )


class Session:
    """Mounts what `make_operations` returns; it gets what Operations.init() has to call."""

    def __init__(
        self,
        make_operations: Callable[[Callable[[], None]], pyfuse3.Operations],
        config: FuseConfig,
        invalidation: InvalidationThread,
        on_ready: Callable[[], None],
    ) -> None:
        self._operations = make_operations(self._on_init)
        self._config = config
        self._on_ready = on_ready
        self._state = State.NEW
        self._is_stopped = False
        self._path = config.mountpoint
        self._invalidation = invalidation
        self._device: str | None = None  # of our mount, as in mountinfo
        self._server: Server | None = None  # ours, in place of pyfuse3's

    def mount(self) -> None:
        """Mount. Requests wait until `serve`. Raises: MountError."""
        assert self._state is State.NEW
        self._path = mounts.canonical(self._config.mountpoint)  # later it would ask ourselves
        try:
            self._server = self._make_server()
            if self._server is None:
                self._init_libfuse()
        except OSError as failure:
            raise MountError(f"cannot mount on {self._path}: {failure.strerror}") from failure
        self._state = State.MOUNTED
        mount = mounts.find_mount(self._path)
        self._device = mount.device if mount else None
        self._invalidation.start()

    def _make_server(self) -> Server | None:
        """None where pyfuse3 has to serve."""
        operations, config = self._operations, self._config
        if not (config.is_tuned and isinstance(operations, Operations) and server.is_supported()):
            return None
        device_fd = mounting.mount(self._path, config.options)
        if device_fd is None:
            return None
        try:
            made = Server(device_fd, operations, config.has_posix)
        except OSError:
            os.close(device_fd)
            mounts.detach(self._path, is_lazy=True)
            raise
        self._invalidation.ask_by(made.invalidate_inode)
        return made

    def _init_libfuse(self) -> None:
        """Raises: MountError, with what libfuse says."""
        said: list[str] = []
        try:
            with captured_stderr(said):
                pyfuse3.init(self._operations, self._config.mountpoint, set(self._config.options))
        except RuntimeError as failure:
            reason = " ".join(said) or str(failure)
            raise MountError(f"cannot mount on {self._config.mountpoint}: {reason}") from failure

    async def serve(self) -> None:
        """Answer requests until somebody unmounts or `stop` is called."""
        assert self._state is State.MOUNTED
        if self._is_stopped:
            return
        self._state = State.SERVING
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            if self._server is not None:
                await self._server.serve(self._config.request_count_max, self._on_answered)
                return
            with freeze_guard():
                await pyfuse3.main(1, self._config.request_count_max)
        finally:
            self._state = State.SERVED

    def stop(self) -> None:
        """Make `serve` return once the requests that it has read are answered."""
        self._is_stopped = True
        if self._server:
            self._server.stop()
        elif self._state is State.SERVING:
            pyfuse3.terminate()

    def unmount(self) -> None:
        """Unmount, if nobody has, and end the session. Never raises; does nothing twice."""
        if self._state in (State.NEW, State.ENDED):
            return
        self._state = State.ENDED
        has_answered = self._invalidation.stop()
        if not has_answered:
            log.error("the kernel does not answer: leaving the session as it is")
        if self._server or not has_answered:
            self._detach()  # libfuse does not know the mount point, or must not be asked
        if self._server:
            self._server.close()
        elif has_answered:
            pyfuse3.close(unmount=True)  # lazily: open files do not keep it

    def _detach(self) -> None:
        mount = mounts.find_mount(self._path)
        if mount is None or mount.device != self._device:
            return  # somebody has unmounted it, or mounted something else there since
        try:
            mounts.detach(self._path, is_lazy=True)
        except OSError as failure:
            log.error("cannot unmount %s: %s", self._path, failure)

    def _on_init(self) -> None:
        """INIT is being answered: the mount answers as soon as the present task waits."""
        trio.lowlevel.current_trio_token().run_sync_soon(self._on_answered)

    def _on_answered(self) -> None:
        self._raise_readahead()
        self._on_ready()

    def _raise_readahead(self) -> None:
        """Bigger read-ahead means 1 MiB requests and several at once. Root only, and only
        after INIT, whose answer sets it back."""
        if self._device is None:
            return
        try:
            with open(f"/sys/class/bdi/{self._device}/read_ahead_kb", "w") as file:
                file.write(str(self._config.readahead_kib))
        except OSError as failure:
            log.debug("the kernel's read-ahead stays as it is: %s", failure)


@contextmanager
def freeze_guard() -> Iterator[None]:
    """Interrupt blocking system calls of the main thread every FREEZE_GUARD_S."""
    previous = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.siginterrupt(signal.SIGALRM, True)  # EINTR instead of a restarted read
    signal.setitimer(signal.ITIMER_REAL, FREEZE_GUARD_S, FREEZE_GUARD_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def captured_stderr(lines: list[str]) -> Iterator[None]:
    """Collect what libfuse would print: it tells the reason of a failure there only."""
    sys.stderr.flush()
    saved = os.dup(2)
    capture = os.memfd_create("libfuse")
    os.dup2(capture, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.lseek(capture, 0, os.SEEK_SET)
        text = os.read(capture, 4096).decode(errors="replace")
        lines += [line.strip().removeprefix("fuse: ") for line in text.splitlines() if line.strip()]
        os.close(saved)
        os.close(capture)
