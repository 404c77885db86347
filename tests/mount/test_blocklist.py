"""A client that the cluster has cut off, as an administrator or a failed-over machine does."""

import contextlib
import errno
import functools
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import rados

from radosmount.lab import Lab
from tests.mount.calls import can, eventually, fails, opened
from tests.mount.mounting import Mount, mounted

USER = "cut-off"
EXPECTED = [
    "blocklisted", "connected anew", "is not stored", "could not be stored", "errno 108",
    "changed it",
]  # fmt: skip
# Sessions that are blocklisted stay so for longer than any test.
BLOCKLIST_S = "3600"
THREADS_PER_CONNECTION = 24  # of librados, of three handles


@pytest.fixture
def mount(lab: Lab, pool: str) -> Iterator[Mount]:
    keyring = lab.add_user(USER, mon="profile rbd", osd="allow rwx", mgr="allow r")
    options = f"timeout=10,dirty_expire=3600,keyring={keyring}"
    with mounted(lab, f"{USER}@ceph:{pool}", options, expected=EXPECTED) as mount:
        yield mount


@pytest.fixture
def objects(cluster: rados.Rados, pool: str) -> Iterator[rados.Ioctx]:
    with contextlib.closing(cluster.open_ioctx(pool)) as ioctx:
        yield ioctx


def cut_off(lab: Lab) -> None:
    """Blocklist every connection of the user."""
    for session in json.loads(lab.ceph("tell", "mon.a", "sessions")):
        if session["entity_name"] == f"client.{USER}":
            [address] = session["addrs"]["addrvec"]
            place = f"{address['addr']}/{address['nonce']}"
            lab.ceph("osd", "blocklist", "add", place, BLOCKLIST_S)


def test_it_connects_anew(lab: Lab, mount: Mount, objects: rados.Ioctx) -> None:
    """A client that the cluster has cut off (blocklisted) connects anew by itself: reading goes
    on, and what was not stored is stored then, or is ESTALE where someone else has changed it."""
    (mount.path / "read").write_bytes(b"content")
    ours, theirs = mount.path / "ours", mount.path / "theirs"
    ours.write_bytes(b"first")
    theirs.write_bytes(b"first")
    with opened(ours, os.O_RDWR) as kept, opened(theirs, os.O_RDWR) as lost:
        cut_off(lab)  # before the writes: its forks close what is open, and so flush it
        os.write(kept, b"FIRST and more")
        os.write(lost, b"FIRST and more")
        objects.write_full("theirs", b"theirs")
        assert (mount.path / "read").read_bytes() == b"content"
        eventually(lambda: can(lambda: os.fsync(kept), errno.EIO))
        assert objects.read("ours") == b"FIRST and more"
        with fails(errno.ESTALE):
            while not can(lambda: os.fsync(lost), errno.EIO):
                pass
        with fails(errno.ESTALE):
            os.close(lost)
    assert objects.read("theirs") == b"theirs"
    assert theirs.read_bytes() == b"theirs"
    (mount.path / "new").write_bytes(b"new")
    assert objects.read("new") == b"new"
    [spooled] = (mount.folder / "spool").iterdir()
    assert "theirs" in spooled.name


def test_again_and_again(lab: Lab, mount: Mount, objects: rados.Ioctx) -> None:
    """Under writers; nothing that was acknowledged is lost, and no connection is left over."""
    stop = threading.Event()
    acknowledged: dict[str, bytes] = {}

    def write_files(worker: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name, content = f"{worker}-{number % 20}", os.urandom(5000)
            write = functools.partial(write_whole, mount.path / name, content)
            if can(write, errno.EIO):
                acknowledged[name] = content
            else:
                acknowledged.pop(name, None)

    workers = [threading.Thread(target=write_files, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    thread_count_before = thread_count(mount)
    for round_number in range(4):
        cut_off(lab)
        eventually(lambda: mount.log().count("connected anew") > round_number)  # noqa: B023
        before = set(acknowledged)
        eventually(lambda: set(acknowledged) != before or len(before) > 50)  # noqa: B023
    stop.set()
    for worker in workers:
        worker.join()
    assert acknowledged
    for name, content in acknowledged.items():
        assert objects.read(name, 10_000) == content
    eventually(lambda: thread_count(mount) < thread_count_before + THREADS_PER_CONNECTION / 2)


def thread_count(mount: Mount) -> int:
    assert mount.process is not None
    return len(list(Path(f"/proc/{mount.process.pid}/task").iterdir()))


def write_whole(path: Path, content: bytes) -> None:
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as descriptor:
        os.write(descriptor, content)
        os.fsync(descriptor)
