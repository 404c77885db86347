"""Going to the background, with an honest answer to whoever started us.

The parent stays until the child says "ready", or why not, through a pipe; it exits accordingly.
The fork comes before rados, trio and pyfuse3 are imported: librados's threads would not be in
the child. So this module imports none of them.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from radosmount.errors import MountError

READY: Final = b"ready"
FAILED: Final = b"failed "
REPORT_SIZE_MAX: Final = 4096  # at most PIPE_BUF, so that a report is written whole
KILL_DELAY_S: Final = 2.0  # from SIGTERM to SIGKILL for a child that never got ready


class Child(NamedTuple):
    pid: int
    report_fd: int


def daemonize(run: Callable[[Callable[[], None]], int], timeout_s: float) -> None:
    """Run `run` in a daemon, and return when it calls the function that it is given ("ready").

    A MountError that `run` raises before that is raised here. Raises: MountError.
    """
    child = start_child(run)
    try:
        report = read_report(child.report_fd, timeout_s)
    except BaseException:  # Ctrl-C, or too late
        end_child(child.pid)
        raise
    finally:
        os.close(child.report_fd)
    if report == READY:
        return
    raise MountError(reason_of(report, child.pid))


def start_child(run: Callable[[Callable[[], None]], int]) -> Child:
    read_fd, write_fd = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write_fd)
        return Child(pid, read_fd)
    os.close(read_fd)
    run_child(run, write_fd)


def run_child(run: Callable[[Callable[[], None]], int], write_fd: int) -> NoReturn:
    exit_code = 1
    try:
        leave_terminal()
        exit_code = run(lambda: report_to_parent(write_fd, READY))
    except MountError as failure:
        report_to_parent(write_fd, FAILED + os.fsencode(str(failure)))
    except BaseException as failure:
        text = f"unexpected: {failure!r} (start with -f -d to see more)"
        report_to_parent(write_fd, FAILED + text.encode(errors="replace"))
    finally:
        os._exit(exit_code)  # never back into the parent's code; stuck threads do not hold us


def leave_terminal() -> None:
    """At once, not when ready: whoever reads our stderr to its end waits for every holder."""
    os.setsid()
    os.chdir("/")
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null_fd, fd)
    if null_fd > 2:
        os.close(null_fd)


def report_to_parent(write_fd: int, report: bytes) -> None:
    """The first report counts, and closes the pipe."""
    try:
        os.write(write_fd, report[:REPORT_SIZE_MAX])
        os.close(write_fd)
    except OSError:  # the parent has gone, or a report was made before
        pass


def read_report(report_fd: int, timeout_s: float) -> bytes:
    """What the child says; b"" where it ended without a word. Raises: MountError, too late."""
    readable, _, _ = select.select([report_fd], [], [], timeout_s)
    if not readable:
        raise MountError(f"the mount did not answer within {timeout_s:g} s: is the cluster up?")
    return os.read(report_fd, REPORT_SIZE_MAX)


def reason_of(report: bytes, pid: int) -> str:
    if report.startswith(FAILED):
        return os.fsdecode(report.removeprefix(FAILED))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"the daemon {how} before the mount was ready (start with -f -d to see more)"


def end_child(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)  # it unmounts, if it has come that far
    deadline = time.monotonic() + KILL_DELAY_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
