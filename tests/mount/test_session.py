"""Mounting, ready, unmounting and ending for real, on an empty root: no cluster needed."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from radosmount.fuse import _device
from radosmount.fuse.mounting import mount_by_helper
from radosmount.fuse.mounts import detach, find_mount
from radosmount.unmount import unmount

PROGRAM = Path(__file__).parent / "empty_mount.py"


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "a mount"
    directory.mkdir()
    yield directory
    while find_mount(str(directory)):
        detach(str(directory), is_lazy=True)


def run(*words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, words)]
    everything = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=everything, timeout=60)


def mount(mountpoint: Path, *words: str, **environment: str) -> int:
    """Mount in the background; the daemon's pid."""
    result = run(PROGRAM, "ceph:a,b", mountpoint, *words, **environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return int(os.getxattr(mountpoint, "ceph.radosmount.pid"))


def umount(mountpoint: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return run("-m", "radosmount", "umount", mountpoint, *words)


def has_ended(pid: int, within_s: float = 0) -> bool:
    """A process that nobody has waited for yet has ended too."""
    try:
        daemon_fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([daemon_fd], [], [], within_s)[0])
    finally:
        os.close(daemon_fd)


def wait_for_end(pid: int) -> None:
    assert has_ended(pid, within_s=30), "the daemon does not end"


def test_the_mount_answers_when_the_command_returns(mountpoint: Path) -> None:
    """It daemonises once the mount is ready; nosuid and nodev are set whatever is asked."""
    pid = mount(mountpoint, "-o", "rw,_netdev,noatime,dev,suid")
    assert os.listdir(mountpoint) == []
    info = find_mount(str(mountpoint))
    assert info is not None
    assert (info.fstype, info.source) == ("fuse.radosmount", "ceph:a,b")
    flags = os.statvfs(mountpoint).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOATIME
    assert umount(mountpoint).returncode == 0
    assert has_ended(pid)
    assert not find_mount(str(mountpoint))


@pytest.mark.parametrize("option", ["stock_fuse", "auto_unmount"])
def test_libfuse_mounts_without_suid_and_dev(mountpoint: Path, option: str) -> None:
    """Where libfuse mounts, by itself or by fusermount3, as where we do."""
    pid = mount(mountpoint, "-o", f"{option},dev,suid")
    flags = os.statvfs(mountpoint).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert umount(mountpoint).returncode == 0
    assert has_ended(pid)


def test_the_helper_mounts(mountpoint: Path) -> None:
    """Where mount(2) is not for us, fusermount3 mounts and hands the descriptor over; the first
    thing to be read from it is the kernel's INIT."""
    options = frozenset({"fsname=ceph:a,b", "subtype=radosmount", "nosuid", "nodev", "rw"})
    device_fd = mount_by_helper(str(mountpoint), options)
    assert device_fd is not None
    try:
        device = _device.Device(device_fd, ())
        agreed = device.answer_init(_device.WANTED | _device.KILLPRIV, 64, 48)
        assert agreed == _device.WANTED | _device.KILLPRIV
        info = find_mount(str(mountpoint))
        assert info is not None
        assert (info.fstype, info.source) == ("fuse.radosmount", "ceph:a,b")
    finally:
        os.close(device_fd)


def test_the_helper_refuses(mountpoint: Path) -> None:
    """Then libfuse is to say why."""
    assert mount_by_helper(str(mountpoint / "missing"), frozenset()) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(number: int, mountpoint: Path) -> None:
    pid = mount(mountpoint)
    os.kill(pid, number)
    wait_for_end(pid)
    assert not find_mount(str(mountpoint))


def test_plain_umount_ends_the_daemon(mountpoint: Path) -> None:
    pid = mount(mountpoint)
    subprocess.run(["umount", mountpoint], check=True)
    wait_for_end(pid)


def test_a_dead_mount_is_replaced(mountpoint: Path) -> None:
    """After kill -9 the next mount on the same point works without manual cleaning."""
    for _ in range(2):
        pid = mount(mountpoint)
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
    mount(mountpoint)
    assert umount(mountpoint).returncode == 0
    assert not find_mount(str(mountpoint))


def test_umount_of_a_dead_mount(mountpoint: Path) -> None:
    pid = mount(mountpoint)
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    assert umount(mountpoint).returncode == 0
    assert not find_mount(str(mountpoint))


def test_a_busy_mountpoint_is_refused(mountpoint: Path) -> None:
    mount(mountpoint)
    result = run(PROGRAM, "ceph:", mountpoint)
    assert result.returncode == 32
    assert "is busy: ceph:a,b (fuse.radosmount) is mounted there" in result.stderr
    assert umount(mountpoint).returncode == 0


def test_umount_of_a_mount_in_use(mountpoint: Path) -> None:
    """It stays mounted, and the line says so; -l detaches it."""
    pid = mount(mountpoint)
    descriptor = os.open(mountpoint, os.O_RDONLY)
    result = umount(mountpoint)
    assert result.returncode == 32
    assert "is in use" in result.stderr
    assert find_mount(str(mountpoint))
    assert umount(mountpoint, "-l").returncode == 0
    assert not find_mount(str(mountpoint))
    os.close(descriptor)
    wait_for_end(pid)


def test_umount_stays_after_a_failed_flush(mountpoint: Path) -> None:
    mount(mountpoint, EMPTY_MOUNT_REFUSES="1")
    result = umount(mountpoint)
    assert result.returncode == 32
    assert "Disk quota exceeded; still mounted" in result.stderr
    assert find_mount(str(mountpoint))


def test_umount_waits_for_the_daemon(mountpoint: Path) -> None:
    """`radosmount umount` waits until all is flushed."""
    pid = mount(mountpoint, EMPTY_MOUNT_FLUSH_S="1")
    assert umount(mountpoint).returncode == 0
    assert has_ended(pid)


def test_umount_tells_that_it_waits(
    mountpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line every few seconds, while the daemon does not end."""
    pid = mount(mountpoint, EMPTY_MOUNT_FLUSH_S="2.5")
    monkeypatch.setattr("radosmount.unmount.PATIENCE_S", 1.0)
    unmount(str(mountpoint), is_lazy=False)
    assert has_ended(pid)
    lines = [f"radosmount: waiting for the daemon to end ({seconds} s)" for seconds in (1, 2)]
    assert capsys.readouterr().err.splitlines()[:2] == lines


def test_the_service_manager_hears_it(mountpoint: Path, tmp_path: Path) -> None:
    """READY when the mount answers; STOPPING and more time while a stop flushes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        command = [sys.executable, str(PROGRAM), "-f", "-o", "", "--", "ceph:", str(mountpoint)]
        process = subprocess.Popen(
            command, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        assert listener.recv(4096).startswith(b"READY=1\n")
        assert os.listdir(mountpoint) == []
        process.terminate()
        assert listener.recv(4096).startswith(b"STOPPING=1\n")
        assert listener.recv(4096).startswith(b"EXTEND_TIMEOUT_USEC=")
        assert process.wait(30) == 0
    assert not find_mount(str(mountpoint))


def test_libfuses_reason_is_told(mountpoint: Path) -> None:
    """What libfuse prints becomes our one line."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import empty_mount as m;"
        "m.cli.serve = m.serve;"
        "from radosmount import configure; configure.FORCED |= {'nonsense'};"
        "sys.exit(m.cli.main(['ceph:', sys.argv[2]]))"
    )
    result = run("-c", program, PROGRAM.parent, mountpoint)
    assert result.returncode == 32
    assert result.stderr.startswith(f"radosmount: cannot mount on {mountpoint}: ")
    assert "nonsense" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def helper(tmp_path: Path) -> Path:
    """A command as mount(8) runs it: by path, with hardly any environment."""
    path = tmp_path / "helper"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("form", ["type", "source"])
def test_mount8_runs_it(form: str, helper: Path, mountpoint: Path) -> None:
    """`mount -t fuse.radosmount SOURCE` and `mount -t fuse radosmount#SOURCE`; umount -a style
    options and habits of fstab are accepted."""
    fstype, source = (
        (f"fuse.{helper}", "ceph:x") if form == "type" else ("fuse", f"{helper}#ceph:x")
    )
    options = "_netdev,nofail,x-systemd.automount,comment=mine,relatime,cache_size=64M"
    command = ["mount", "-t", fstype, source, str(mountpoint), "-o", options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    info = find_mount(str(mountpoint))
    assert info is not None
    assert (info.fstype, info.source) == ("fuse.radosmount", "ceph:x")
    assert os.statvfs(mountpoint).f_flag & os.ST_NOSUID
    assert umount(mountpoint).returncode == 0


def test_mount8_hears_why_not(helper: Path, mountpoint: Path) -> None:
    command = ["mount", "-t", f"fuse.{helper}", "ceph:x", str(mountpoint), "-o", "foo=bar"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == ("radosmount: unknown option 'foo' (radosmount --help lists them)\n")


def test_remount_is_refused(helper: Path, mountpoint: Path) -> None:
    command = ["mount", "-t", f"fuse.{helper}", "ceph:x", str(mountpoint)]
    assert subprocess.run(command, timeout=60).returncode == 0
    result = run(PROGRAM, "ceph:x", mountpoint, "-o", "remount,ro")
    assert result.returncode == 1
    assert "remount is not possible" in result.stderr


def test_a_second_signal_ends_a_process_that_hangs(mountpoint: Path) -> None:
    """No store thread that hangs in librados can keep the process, or the mount."""
    pid = mount(mountpoint, EMPTY_MOUNT_FLUSH_S="3600")
    os.kill(pid, signal.SIGTERM)
    assert not has_ended(pid, within_s=0.5)
    os.kill(pid, signal.SIGTERM)
    assert has_ended(pid, within_s=20)
    assert not find_mount(str(mountpoint))


def test_the_kernel_reads_ahead(mountpoint: Path) -> None:
    """Root mounts raise the kernel's read-ahead, without which requests are of 128 KiB."""
    mount(mountpoint)
    info = find_mount(str(mountpoint))
    assert info is not None
    assert Path(f"/sys/class/bdi/{info.device}/read_ahead_kb").read_text() == "4096\n"
