"""Real mounts of a real cluster: the command in the foreground, its log watched, its end sure.

A line of WARNING or above in a mount's log fails the test, unless it is expected.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from radosmount.fuse.mounts import detach, find_mount
from radosmount.lab import Lab

PROGRAM: Final = ("-m", "radosmount")
START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 60
LOUD: Final = re.compile(r"WARNING|ERROR|CRITICAL|Traceback|Exception ignored")


class Mount:
    """A running mount. `path` is its root, `folder` a place beside it for the test's own files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "mnt"
        self.log_path = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._checked_bytes = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def start(
        self,
        lab: Lab,
        source: str,
        options: str = "",
        words: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """Returns when the mount answers (READY of the notify protocol)."""
        if not find_mount(str(self.path)):
            self.path.mkdir(exist_ok=True)
        command = [sys.executable, *program, "-f", "-c", str(lab.conf_path), *words]
        command += ["-o", f"spool={self.folder}/spool", "-o", options, source, str(self.path)]
        environment = {**os.environ, "NOTIFY_SOCKET": str(self._listen())}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait_until_ready()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal, wait; return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """kill -9: the mount point stays behind without its process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def clean_up(self) -> None:
        """Whatever happened: no process, no mount, no files."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        while find_mount(str(self.path)):
            detach(str(self.path), is_lazy=True)
        self._listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        return self.log_path.read_text(errors="backslashreplace")

    def check_log(self, expected: Sequence[str] = ()) -> None:
        """Fail on loud lines since the last check, but for those that match one of `expected`."""
        new = self.log_path.read_bytes()[self._checked_bytes :]
        self._checked_bytes += len(new)
        text = new.decode(errors="backslashreplace")
        loud = [line for line in text.splitlines() if LOUD.search(line)]
        if any(not any(re.search(regex, line) for regex in expected) for line in loud):
            pytest.fail(f"unexpected in the mount's log:\n{text[-8000:]}")

    def _listen(self) -> Path:
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        self._listener.close()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(str(path))
        return path

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        process_fd = os.pidfd_open(self.process.pid)
        try:
            sources = [self._listener.fileno(), process_fd]
            ready, _, _ = select.select(sources, [], [], START_TIMEOUT_S)
        finally:
            os.close(process_fd)
        if self._listener.fileno() not in ready or not self._listener.recv(4096).startswith(
            b"READY=1"
        ):
            pytest.fail(f"the mount did not start:\n{self.log()[-8000:]}")


@contextlib.contextmanager
def mounted(
    lab: Lab,
    source: str,
    options: str = "",
    words: Sequence[str] = (),
    expected: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
) -> Iterator[Mount]:
    """Mount `source` with these `-o` options and further words; ended by SIGTERM, unless the
    block has done so. `expected`: what may be loud in its log, as regular expressions."""
    mount = Mount(Path(tempfile.mkdtemp(prefix="mount.")))
    try:
        mount.start(lab, source, options, words, program)
        yield mount
        mount.stop()
        mount.check_log(expected)
    except BaseException:
        if mount.log_path.exists():
            print(f"the mount's log ends:\n{mount.log()[-8000:]}")
        raise
    finally:
        mount.clean_up()
