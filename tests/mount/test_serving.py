"""How requests are served: by our loop and INIT, and by stock libfuse and pyfuse3."""

import functools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from benchmarks.processes import reply_count
from radosmount.fuse.mounts import find_mount
from radosmount.lab import Lab
from tests.mount.calls import eventually, opened
from tests.mount.mounting import Mount, mounted
from tests.mount.slow_mount import PULSE, TOGETHER_COUNT
from tests.support.cluster import SHARED_POOL

SLOW: Final = (str(Path(__file__).parent / "slow_mount.py"),)
PATHS: Final = ["", "stock_fuse"]
WRITE_COUNT: Final = 1000
KILL_COUNT: Final = 50
BLOCKED_COUNT: Final = 300
EARLY_COUNT: Final = 100
OPEN_COUNT: Final = 200

FIO: Final = """\
[global]
ioengine=psync
bsrange=4k-128k
size=8m
numjobs=4
fsync=32
verify=crc32c
verify_fatal=1
group_reporting

[sequential]
rw=write

[random]
rw=randwrite
"""


def run_fio(jobs: Path, directory: Path, *words: str) -> None:
    command = ["fio", f"--directory={directory}", *words, str(jobs)]
    result = subprocess.run(command, cwd=jobs.parent, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("options", PATHS)
def test_fio_verifies(options: str, lab: Lab, pool: str, tmp_path: Path) -> None:
    """What eight writers write, in order and scattered, has the right checksums on another
    mount."""
    jobs = tmp_path / "jobs.fio"
    jobs.write_text(FIO)
    with mounted(lab, f"ceph:{pool}", options) as mount:
        run_fio(jobs, mount.path, "--do_verify=0")
    with mounted(lab, f"ceph:{pool}", options) as mount:
        run_fio(jobs, mount.path, "--verify_only")
        assert len(os.listdir(mount.path)) == 8


@pytest.fixture
def slow(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    """A mount by slow_mount.py; see there. Tests use `slow.path / "pool"`."""
    monkeypatch.setenv(PULSE, str(tmp_path / "pulse"))
    with mounted(lab, "ceph:", program=SLOW) as mount:
        yield mount


def test_lookups_of_one_directory_are_parallel(slow: Mount) -> None:
    """The kernel sends them all at once (PARALLEL_DIROPS), and none stands before another."""
    paths = [slow.path / "pool" / f"together-{number}" for number in range(TOGETHER_COUNT)]
    with ThreadPoolExecutor(TOGETHER_COUNT) as threads:
        assert [found.st_size for found in threads.map(os.stat, paths)] == [7] * TOGETHER_COUNT


def test_what_is_told_early_is_known_at_once(lab: Lab, pool: str) -> None:
    """A program hears of an unlinking from librados's own thread, before we do; whatever it asks
    next, and whatever the kernel has to say meanwhile, comes after."""
    with mounted(lab, f"ceph:{pool}") as mount:
        for number in range(EARLY_COUNT):
            path = mount.path / f"file-{number}"
            with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
                os.write(descriptor, b"content")
            assert os.listdir(mount.path) == [path.name]
            renamed = path.rename(mount.path / f"renamed-{number}")
            assert os.listdir(mount.path) == [renamed.name]
            assert renamed.read_bytes() == b"content"
            renamed.unlink()
            assert os.listdir(mount.path) == []


def write_often(path: Path) -> None:
    with opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        for number in range(WRITE_COUNT):
            os.pwrite(descriptor, bytes(4096), 4096 * number)


def read_often(path: Path) -> None:
    for _ in range(OPEN_COUNT):
        with opened(path, os.O_RDONLY):
            pass


@pytest.mark.parametrize(
    ("call", "name", "options", "low", "high"),
    [
        (write_often, "written", "", WRITE_COUNT, 1.5 * WRITE_COUNT),
        (write_often, "written", "stock_fuse", 2 * WRITE_COUNT, 2.5 * WRITE_COUNT),
        (read_often, "good", "", 3 * OPEN_COUNT, 3.5 * OPEN_COUNT),
        (read_often, "good", "stock_fuse", 4 * OPEN_COUNT, 4.5 * OPEN_COUNT),
    ],
)
def test_how_many_requests_come(
    call: Callable[[Path], None], name: str, options: str, low: int, high: float, lab: Lab
) -> None:
    """The kernel asks for security.capability before each write, but not of a mount that agreed
    to HANDLE_KILLPRIV_V2; and tells of each close(2), but not where there is nothing to store."""
    with mounted(lab, "ceph:", options, program=SLOW) as mount:
        assert mount.process is not None
        before = reply_count(mount.process.pid)
        call(mount.path / "pool" / name)
        assert low <= reply_count(mount.process.pid) - before <= high


def test_the_read_ahead_is_raised(lab: Lab) -> None:
    """Also where we have mounted by our own hand."""
    with mounted(lab, f"ceph:{SHARED_POOL}") as mount:
        info = find_mount(str(mount.path))
        assert info is not None
        assert Path(f"/sys/class/bdi/{info.device}/read_ahead_kb").read_text() == "4096\n"


def has_beaten_since(before: str, pulse: Path) -> bool:
    return pulse.read_text() not in ("", before)  # empty while it is being written


def test_killed_callers_freeze_nothing(slow: Mount, tmp_path: Path) -> None:
    """A caller that is killed while its request is on the way does not stop the process, not
    even until the next request comes."""
    dice = random.Random(3)
    pulse = tmp_path / "pulse"
    loop = 'while :; do : < "$1"; done'
    for _ in range(KILL_COUNT):
        command = ["sh", "-c", loop, "sh", str(slow.path / "pool" / "good")]
        with subprocess.Popen(command) as caller:
            time.sleep(dice.uniform(0.002, 0.03))  # at another moment each time
            caller.kill()
        before = pulse.read_text()
        eventually(functools.partial(has_beaten_since, before, pulse), 5)
    assert (slow.path / "pool" / "good").read_bytes() == b"content"


def test_many_blocked_callers(slow: Mount) -> None:
    """300 threads that wait for the store leave room for the requests of others."""
    assert slow.process is not None
    paths = [slow.path / "pool" / f"gated-{number}" for number in range(BLOCKED_COUNT)]
    good = slow.path / "pool" / "good"
    with ThreadPoolExecutor(BLOCKED_COUNT + 1) as threads:
        blocked = [threads.submit(os.stat, path) for path in paths]
        try:
            eventually(lambda: f"calls at the gate: {BLOCKED_COUNT}." in slow.log(), 10)
            assert threads.submit(good.read_bytes).result(10) == b"content"
            assert not any(call.done() for call in blocked)
        finally:
            slow.process.send_signal(signal.SIGUSR1)
        assert all(call.result(30).st_size == 7 for call in blocked)
