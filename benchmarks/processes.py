"""Client processes: start one, wait for its mount, read what it used, end it.

CPU is read from the process's own clock, exact to nanoseconds; /proc/PID/stat counts in ticks
of 10 ms, which is as much as 100 creates use, and is only asked for the kernel's share.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 30.0
END_TIMEOUT_S: Final = 60.0  # a client may have to write back what it holds
BUSY_TIMEOUT_S: Final = 10.0
POLL_INTERVAL_S: Final = 0.02
STAT_STIME: Final = 12  # behind the command's name, which is the second field
CPU_CLOCK: Final = 2  # CPUCLOCK_SCHED of clock_getcpuclockid(3): all threads, ended ones too


class PeerError(Exception):
    """A peer did not start, mount, or end. One plain line."""


def cpu_clock_s(pid: int) -> float:
    """User and system seconds of a process, its ended threads included."""
    return time.clock_gettime((~pid << 3) | CPU_CLOCK)


def kernel_s(pid: int) -> float:
    """Of that the system seconds, in ticks: proc(5), stime."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[STAT_STIME]) / os.sysconf("SC_CLK_TCK")


def reply_count(pid: int) -> int:
    """The write system calls of a process: for a FUSE daemon at rest, its replies."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "syscw":
            return int(value)
    return 0


def plain_environment() -> dict[str, str]:
    """Ours, without what would send the S3 clients elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and not name.lower().endswith("_proxy")
    }


class MountProcess:
    """A file system daemon in the foreground, and its mount point."""

    def __init__(
        self,
        command: Sequence[str],
        path: Path,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        umount: Sequence[str] = ("umount",),
    ) -> None:
        self.path = path
        self._umount = umount
        self._log_path = log_path
        path.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**plain_environment(), **(environment or {})},
                start_new_session=True,
            )
        try:
            self._wait_until_mounted()
        except PeerError:
            self.close()
            raise

    def _wait_until_mounted(self) -> None:
        device = self.path.parent.stat().st_dev
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.path.stat().st_dev == device:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PeerError(f"did not mount: {self._last_words()}")
            time.sleep(POLL_INTERVAL_S)

    def _last_words(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it says nothing"

    def pids(self) -> list[int]:
        """The daemon and its children: some start a second process that serves."""
        pid = self._process.pid
        tasks = Path(f"/proc/{pid}/task").glob("*/children")  # any thread may have forked
        return [pid, *(int(child) for task in tasks for child in task.read_text().split())]

    def cpu_s(self) -> float:
        return sum(cpu_clock_s(pid) for pid in self.pids())

    def kernel_s(self) -> float:
        return sum(kernel_s(pid) for pid in self.pids())

    def replies(self) -> int:
        return sum(reply_count(pid) for pid in self.pids())

    def close(self) -> None:
        """Unmount, and wait until the daemon has ended: it may write back what it holds."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        try:
            while self._unmount() and time.monotonic() < deadline:  # busy, as just after a kill
                time.sleep(POLL_INTERVAL_S)
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill()
            raise PeerError(f"did not end within {END_TIMEOUT_S:.0f} s of its unmount") from None

    def _unmount(self) -> int:
        """Return the exit code: 0, or the mount is still there."""
        if self._process.poll() is not None:
            return 0
        command = [*self._umount, str(self.path)]
        return subprocess.run(
            command, capture_output=True, timeout=END_TIMEOUT_S, check=False
        ).returncode

    def _kill(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
        self._process.kill()
        self._process.wait()


def run_quietly(command: Sequence[str], timeout_s: float = 60.0) -> str:
    """Run a program to its end, return its output. Raises: PeerError."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise PeerError(f"{command[0]}: {failure}") from failure
    if done.returncode:
        raise PeerError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout
