"""The command against a real cluster: every failure in one line, and whole mounts."""

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from radosmount.fuse.mounts import detach, find_mount
from radosmount.lab import Lab
from tests.mount.calls import eventually, fails
from tests.mount.mounting import mounted

POOL = "command"


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Lab:
    lab.create_pool(POOL)
    return lab


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "mnt"
    directory.mkdir()
    yield directory
    while find_mount(str(directory)):
        detach(str(directory), is_lazy=True)


def radosmount(*words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "radosmount", *map(str, words)]
    everything = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=everything, timeout=90)


def refusal(*words: object, **environment: str) -> str:
    result = radosmount(*words, **environment)
    assert (result.returncode, result.stdout) == (32, "")
    assert result.stderr.startswith("radosmount: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_no_such_configuration(mountpoint: Path) -> None:
    assert "/nowhere/ceph.conf: No such file" in refusal(
        "ceph:", mountpoint, "-c", "/nowhere/ceph.conf"
    )


def test_no_such_keyring(cluster: Lab, mountpoint: Path) -> None:
    assert "/nowhere/keyring: No such file" in refusal(
        "ceph:", mountpoint, "-c", cluster.conf_path, "-k", "/nowhere/keyring"
    )


def test_no_such_pool(cluster: Lab, mountpoint: Path) -> None:
    assert "nonesuch" in refusal("ceph:nonesuch", mountpoint, "-c", cluster.conf_path)


def test_wrong_key(cluster: Lab, mountpoint: Path, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text("[client.nobody]\n key = AQBnmGFnAAAAABAA1Yj8Zl2lYxSXEBT4fLk1Zw==\n")
    source = f"nobody@ceph:{POOL}"
    assert "client.nobody" in refusal(source, mountpoint, "-c", cluster.conf_path, "-k", keyring)


def test_no_such_ceph_option(cluster: Lab, mountpoint: Path) -> None:
    words = ("ceph:", mountpoint, "-c", cluster.conf_path, "--no_such_option", "1")
    assert "no_such_option" in refusal(*words)


def test_cluster_down(cluster: Lab, mountpoint: Path) -> None:
    """A cluster that is down is told within connect_timeout."""
    options = ("-m", "127.0.0.1:1", "-o", "connect_timeout=2")
    assert "within 2 s" in refusal("ceph:", mountpoint, "-c", cluster.conf_path, *options)


def test_mounts_by_the_environment(cluster: Lab, mountpoint: Path) -> None:
    """CEPH_CONF and CEPH_ARGS are read as by any Ceph program."""
    keyring = cluster.add_user("command-web", mon="allow r", osd=f"allow rw pool={POOL}")
    arguments = f"--id command-web -k {keyring}"
    environment = {"CEPH_CONF": str(cluster.conf_path), "CEPH_ARGS": arguments}
    result = radosmount(f":{POOL}", mountpoint, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    (mountpoint / "by-web").write_bytes(b"hello")
    assert cluster.rados("-p", POOL, "get", "by-web", "-") == b"hello"
    assert radosmount("umount", mountpoint).returncode == 0


@pytest.mark.parametrize("way", ["--key", "CEPH_ARGS"])
def test_no_key_in_the_log(cluster: Lab, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is given by words never shows in the log, with debug lines, a spooled file and
    all."""
    keyring = cluster.add_user("command-key", mon="allow r", osd=f"allow rw pool={POOL}")
    key = keyring.read_text().split("key = ")[1].split()[0]
    words = ["-d", "-n", "client.command-key", "-k", "/dev/null"]
    if way == "CEPH_ARGS":
        monkeypatch.setenv("CEPH_ARGS", f"--key={key}")
    else:
        words.append(f"--key={key}")
    with mounted(cluster, f"ceph:{POOL}", words=words, expected=["."]) as mount:
        monkeypatch.undo()
        with fails(errno.ESTALE), (mount.path / f"by {way}").open("wb") as file:
            file.write(b"mine")
            cluster.rados("-p", POOL, "put", f"by {way}", "-", input=b"theirs")
        eventually(lambda: "kept in the spool" in mount.log())
        assert "DEBUG" in mount.log()
        assert key not in mount.log()


def test_no_key_in_a_refusal(cluster: Lab, mountpoint: Path) -> None:
    """Nor in what is said of one that is of no use."""
    words = ("ceph:", mountpoint, "-c", cluster.conf_path, "-k", "/dev/null", "--key")
    assert "nonsense" not in refusal(*words, "nonsense")
    assert "nonsense" not in radosmount("umount", "--key=nonsense", mountpoint).stderr


@pytest.mark.parametrize("end", ["radosmount umount", "umount", "SIGTERM", "SIGINT"])
def test_an_end_flushes_all(end: str, cluster: Lab, mountpoint: Path) -> None:
    """However a mount is ended, what was written is in RADOS when the daemon has gone."""
    options = ("-c", cluster.conf_path, "-o", "flush=lazy,dirty_expire=3600")
    result = radosmount(f"ceph:{POOL}", mountpoint, *options)
    assert (result.returncode, result.stderr) == (0, "")
    daemon_fd = os.pidfd_open(int(os.getxattr(mountpoint, "ceph.radosmount.pid")))
    contents = {f"{end} {number}": os.urandom(100_000) for number in range(10)}
    for name, content in contents.items():
        (mountpoint / name).write_bytes(content)
    if end == "radosmount umount":
        assert radosmount("umount", mountpoint).returncode == 0
    elif end == "umount":
        subprocess.run(["umount", mountpoint], check=True)
    else:
        signal.pidfd_send_signal(daemon_fd, signal.Signals[end])
    wait_for_end(daemon_fd)
    assert not find_mount(str(mountpoint))
    for name, content in contents.items():
        assert cluster.rados("-p", POOL, "get", name, "-") == content


def wait_for_end(daemon_fd: int) -> None:

    assert select.select([daemon_fd], [], [], 60)[0], "the daemon does not end"
    os.close(daemon_fd)


def test_the_service_manager_hears_it(cluster: Lab, mountpoint: Path, tmp_path: Path) -> None:
    """READY comes when the mount answers, STOPPING when a stop begins to flush."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        words = ["-f", "-o", "", "-c", str(cluster.conf_path), "--", f"ceph:{POOL}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "radosmount", *words, str(mountpoint)],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        assert listener.recv(4096).startswith(b"READY=1\n")
        assert os.path.ismount(mountpoint)
        os.listdir(mountpoint)
        process.terminate()
        assert listener.recv(4096).startswith(b"STOPPING=1\n")
        assert process.wait(60) == 0


SCRIPT = Path(sys.prefix) / "bin" / "radosmount"


def test_mounts_from_fstab(cluster: Lab, mountpoint: Path, tmp_path: Path) -> None:
    """A line of fstab is enough for mount(8), and umount(8) ends it."""
    options = f"noauto,user,_netdev,nofail,x-systemd.automount,conf={cluster.conf_path}"
    program = tmp_path / "helper"  # mount(8) cuts a type at its last dot, as in .venv
    program.symlink_to(SCRIPT)
    fstab = tmp_path / "fstab"
    fstab.write_text(f"ceph:{POOL} {mountpoint} fuse.{program} {options} 0 0\n")
    subprocess.run(["mount", "-T", fstab, mountpoint], check=True, timeout=60, env={})
    info = find_mount(str(mountpoint))
    assert info is not None
    assert (info.fstype, info.source) == ("fuse.radosmount", f"ceph:{POOL}")
    (mountpoint / "from-fstab").write_bytes(b"x" * 5000)
    daemon_fd = os.pidfd_open(int(os.getxattr(mountpoint, "ceph.radosmount.pid")))
    subprocess.run(["umount", mountpoint], check=True, timeout=60)
    wait_for_end(daemon_fd)
    assert cluster.rados("-p", POOL, "get", "from-fstab", "-") == b"x" * 5000
