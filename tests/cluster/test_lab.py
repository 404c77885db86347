"""The private Ceph of the tests, tested: it starts, serves, and is surely gone afterwards."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from radosmount.errors import MountError
from radosmount.lab import Lab
from radosmount.lab_processes import thread_states
from tests.support.cluster import temporary_lab

DAEMONS = {"mon.a", "mgr.x", "osd.0"}


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a lab may be made; whatever runs there at the end is ended."""
    folder = Path(tempfile.mkdtemp(prefix="lab."))
    yield folder / "ceph"
    Lab(folder / "ceph").stop()
    shutil.rmtree(folder)


def lab_command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "radosmount.lab", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def is_running(pid: int) -> bool:
    """A zombie does not run: its parent just has not asked for its exit code yet."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def rados_as(lab: Lab, user: str, keyring: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    identity = ["-c", str(lab.conf_path), "-k", str(keyring), "--id", user]
    return subprocess.run(["rados", *identity, *words], capture_output=True, check=False)


def test_up_status_down(directory: Path) -> None:
    """`up` outlives its own process, `status` shows it, `down` leaves no process and no folder."""
    began_s = time.monotonic()
    up = lab_command("up", str(directory), "--pool", "assets")
    print(f"lab up: {time.monotonic() - began_s:.1f} s")
    assert up.returncode == 0, up.stderr
    assert up.stdout == f"{directory}/ceph.conf\n"

    pids = Lab.attach(directory).pids()
    assert pids.keys() == DAEMONS
    status = lab_command("status", str(directory))
    assert status.returncode == 0
    assert "1 osds: 1 up" in status.stdout

    began_s = time.monotonic()
    assert lab_command("down", str(directory)).returncode == 0
    print(f"lab down: {time.monotonic() - began_s:.1f} s")
    assert not [pid for pid in pids.values() if is_running(pid)]
    assert not directory.exists()
    assert lab_command("status", str(directory)).returncode == 1


def test_two_labs_side_by_side(lab: Lab) -> None:
    """A second lab, of three OSDs here, neither disturbs the first nor sees its pools."""
    with temporary_lab(osd_count=3, pools=("second",)) as other:
        assert "3 osds: 3 up" in other.status()
        assert "second" in other.ceph("osd", "pool", "ls")
        assert "second" not in lab.ceph("osd", "pool", "ls")
    assert lab.pids().keys() == DAEMONS


def test_objects(lab: Lab, pool: str) -> None:
    """A fresh pool takes an object at once."""
    lab.rados("-p", pool, "put", "name", "-", input=b"bytes")
    assert lab.rados("-p", pool, "get", "name", "-") == b"bytes"


def test_everything_is_under_the_folder(lab: Lab) -> None:
    """The cluster's own log, too, is written in the lab's folder."""
    lab.ceph("log", "a line for the cluster's log")
    log = lab.directory / "log" / "ceph.cluster.log"
    deadline_s = time.monotonic() + 20
    while not log.exists() or "a line for the cluster's log" not in log.read_text():
        assert time.monotonic() < deadline_s, "the monitor does not write its log here"
        lab.ceph("log", "last", "1")  # takes some 0.2 s; the log is written a moment later


def test_user_is_held_to_its_caps(lab: Lab, pool: str) -> None:
    keyring = lab.add_user(f"reader-{pool}", mon="allow r", osd=f"allow r pool={pool}")
    lab.rados("-p", pool, "put", "name", "-", input=b"bytes")
    read = rados_as(lab, f"reader-{pool}", keyring, "-p", pool, "get", "name", "-")
    assert read.stdout == b"bytes"
    removal = rados_as(lab, f"reader-{pool}", keyring, "-p", pool, "rm", "name")
    assert b"Operation not permitted" in removal.stderr


def test_daemon_comes_back_with_its_data(lab: Lab, pool: str) -> None:
    lab.rados("-p", pool, "put", "name", "-", input=b"bytes")
    lab.stop_daemon("osd.0", signal.SIGKILL)
    assert lab.pids().keys() == DAEMONS - {"osd.0"}
    lab.start_daemon("osd.0")
    assert lab.rados("-p", pool, "get", "name", "-") == b"bytes"


def test_killed_owner(directory: Path) -> None:
    """Whoever made the lab may die by SIGKILL in the middle: `down` still finds every daemon."""
    command = [sys.executable, "-m", "radosmount.lab", "up", str(directory)]
    owner = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert owner.stderr is not None
    for line in owner.stderr:
        if "waiting until" in line:  # every daemon was started, none is ready
            break
    owner.kill()
    owner.communicate()
    pids = Lab.attach(directory).pids()
    assert pids.keys() == DAEMONS
    assert lab_command("down", str(directory)).returncode == 0
    assert not [pid for pid in pids.values() if is_running(pid)]
    assert not directory.exists()


def test_frozen_daemon_stands_still_at_once(lab: Lab) -> None:
    """Where all CPUs are busy, too: its threads stop only when one of them has got to run."""
    pid = lab.pids()["osd.0"]
    with contextlib.ExitStack() as stack:
        for _ in range(4 * len(os.sched_getaffinity(0))):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        for _ in range(20):
            lab.signal("osd.0", signal.SIGSTOP)
            states = thread_states(pid)
            lab.signal("osd.0", signal.SIGCONT)
            assert len(states) > 1
            assert set(states) == {"T"}


def test_frozen_daemon_ends_too(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM does not reach a stopped process; SIGKILL does."""
    monkeypatch.setattr("radosmount.lab.TERM_TIMEOUT_S", 1.0)
    lab = Lab(directory)
    lab.start()
    pids = lab.pids()
    lab.signal("osd.0", signal.SIGSTOP)
    lab.stop()
    assert not [pid for pid in pids.values() if is_running(pid)]


def test_stale_folder_is_replaced(directory: Path) -> None:
    """What is left of a lab whose daemons died, as by a reboot, does not hinder the next."""
    first = Lab(directory)
    first.start()
    for pid in first.pids().values():
        os.kill(pid, signal.SIGKILL)
    while first.pids():
        time.sleep(0.01)
    with Lab(directory) as second:
        assert second.pids().keys() == DAEMONS


def test_running_lab_is_not_replaced(lab: Lab) -> None:
    with pytest.raises(MountError, match="runs already"):
        Lab(lab.directory).start()
    assert lab.pids().keys() == DAEMONS


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    """A folder that is not a lab's is never emptied, not even by `down`."""
    (tmp_path / "ceph.conf").write_text("[global]\n")
    with pytest.raises(MountError, match="holds no lab"):
        Lab(tmp_path).start()
    Lab(tmp_path).stop()
    assert (tmp_path / "ceph.conf").exists()


def test_failed_start_says_why(directory: Path, lab: Lab) -> None:
    """The message carries the daemon's own words, and nothing is left of the attempt."""
    taken_port = int(lab.conf_path.read_text().partition("127.0.0.1:")[2].partition("]")[0])
    with pytest.raises(MountError, match=r"(?s)mon\.a.*unable to bind"):
        Lab(directory, monitor_port=taken_port).start()
    assert not directory.exists()
