"""What we tell systemd, heard at a real socket."""

import socket
from pathlib import Path

import pytest

from radosmount.notify import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"@{tmp_path}/n" if request.param == "abstract" else str(tmp_path / "n")


@pytest.fixture
def listener(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind("\0" + address[1:] if address[0] == "@" else address)
    sock.settimeout(5)
    return sock


def test_messages(address: str, listener: socket.socket) -> None:
    """sd_notify(3): one datagram of NAME=VALUE lines."""
    with listener:
        manager = ServiceManager.of({"NOTIFY_SOCKET": address})
        manager.ready("ceph: on /mnt")
        assert listener.recv(4096) == b"READY=1\nSTATUS=ceph: on /mnt"
        manager.stopping("writing back")
        assert listener.recv(4096) == b"STOPPING=1\nSTATUS=writing back"
        manager.status("12 bytes")
        assert listener.recv(4096) == b"STATUS=12 bytes"
        manager.extend_timeout(1.5)
        assert listener.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000"


def test_without_systemd_nothing_happens() -> None:
    ServiceManager.of({}).ready("x")


@pytest.mark.expects_log("cannot tell the service manager")
def test_a_dead_manager_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready("x")
    assert "cannot tell the service manager" in caplog.text
