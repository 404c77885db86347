"""Programs of Ceph that lab.py runs to their end, and its daemons as /proc shows them."""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGSTOP, Signals
from typing import Final

from radosmount.errors import MountError

COMMAND_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0
STOP_POLL_INTERVAL_S: Final = 0.001


def run_program(
    command: Sequence[str], input: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end. Raises: `MountError` if it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, input=input or b"", capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise MountError(f"{command[0]} is missing; scripts/setup installs it") from None
    except subprocess.TimeoutExpired:
        raise MountError(f"no answer in {COMMAND_TIMEOUT_S:.0f} s: {command}") from None
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip()
        raise MountError(f"{' '.join(command)}: exit code {done.returncode}: {complaint}")
    return done


def running_programs() -> list[tuple[int, list[bytes]]]:
    """Return pid and command line of every process. A zombie has an empty one."""
    programs = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                words = (folder / "cmdline").read_bytes().split(b"\0")
                programs.append((int(folder.name), words))
    return programs


def daemon_name(words: list[bytes], conf_path: Path) -> str | None:
    """Return e.g. `osd.0` if `words` is the command line of a daemon of this ceph.conf."""
    match words:
        case [program, b"-f", b"-i", identity, b"-c", conf, *_] if conf == os.fsencode(conf_path):
            kind = Path(os.fsdecode(program)).name.removeprefix("ceph-")
            return f"{kind}.{os.fsdecode(identity)}"
    return None


def send_signal(pid: int, number: Signals) -> None:
    """After SIGSTOP every thread stands still: until one of them has taken the signal, which on a
    busy machine takes a while, the others go on. Raises: `MountError` if they do so for long."""
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while number == SIGSTOP and _has_moving_thread(pid):
        if time.monotonic() > deadline:
            raise MountError(f"pid {pid} did not stop within {STOP_TIMEOUT_S:.0f} s")
        time.sleep(STOP_POLL_INTERVAL_S)


def _has_moving_thread(pid: int) -> bool:
    return any(state not in "TtZX" for state in thread_states(pid))


def thread_states(pid: int) -> list[str]:
    """Return the letter of proc(5) for each thread, `T` if stopped; none if it has ended."""
    states = []
    for folder in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            _, _, rest = (folder / "stat").read_bytes().rpartition(b") ")
            states.append(chr(rest[0]))
    return states
