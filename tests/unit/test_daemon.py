"""The parent of a daemon tells the truth about it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CASES = """
import os, signal, sys, time
from radosmount.daemon import daemonize
from radosmount.errors import MountError

def ready(announce):
    announce()
    announce()  # a second word is no harm
    open(sys.argv[2], "w").write(f"{os.getpid()} {os.getcwd()} {os.getsid(0)}")
    time.sleep(60)

def refused(announce):
    raise MountError("no such pool: assets")

def bug(announce):
    raise ValueError("oops")

def silent(announce):
    os.kill(os.getpid(), signal.SIGSEGV)

def slow(announce):
    open(sys.argv[2], "w").write(str(os.getpid()))
    time.sleep(60)

try:
    daemonize(globals()[sys.argv[1]], 1.0)
    print("ready")
except MountError as failure:
    print("error:", failure)
"""


def start(case: str, note: Path) -> str:
    """What the parent says. Reading its output to the end also shows that no one else holds it."""
    command = [sys.executable, "-c", CASES, case, str(note)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()


def test_returns_when_ready(tmp_path: Path) -> None:
    assert start("ready", tmp_path / "note") == "ready"
    deadline = time.monotonic() + 10
    while not (note := read(tmp_path / "note")) and time.monotonic() < deadline:
        time.sleep(0.01)  # the note is written just after "ready", by another process
    pid, directory, session = note.split()
    try:
        assert directory == "/"
        assert session == pid
    finally:
        os.kill(int(pid), signal.SIGKILL)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("refused", "error: no such pool: assets"),
        ("bug", "error: unexpected: ValueError('oops') (start with -f -d to see more)"),
        (
            "silent",
            "error: the daemon was killed by signal 11 before the mount was ready "
            "(start with -f -d to see more)",
        ),
    ],
)
def test_says_why_not(case: str, said: str, tmp_path: Path) -> None:
    assert start(case, tmp_path / "note") == said


def test_gives_up_in_time(tmp_path: Path) -> None:
    """A child that says nothing is ended."""
    assert "did not answer within 1 s" in start("slow", tmp_path / "note")
    with pytest.raises(ProcessLookupError):
        os.kill(int(read(tmp_path / "note")), 0)
