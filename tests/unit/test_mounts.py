"""Reading mountinfo, and the thread that asks the kernel to forget."""

import threading

import pytest

from radosmount.fuse.invalidation import InvalidationThread
from radosmount.fuse.mounts import MountInfo, find_mount, parse_mountinfo

TEXT = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
90 27 0:55 / /mnt/a\040b rw,nosuid,nodev shared:1 master:2 - fuse.radosmount ceph:x\134y rw,user_id=0
"""  # noqa: E501


def test_parse_mountinfo() -> None:
    """Optional fields come before the dash; blanks are octal."""
    assert parse_mountinfo(TEXT) == [
        MountInfo("0:21", "/proc", "proc", "proc"),
        MountInfo("0:55", "/mnt/a b", "fuse.radosmount", "ceph:x\\y"),
    ]


def test_find_mount() -> None:
    mount = find_mount("/proc")
    assert mount is not None
    assert mount.fstype == "proc"
    assert find_mount("/proc/self") is None


def test_invalidation_goes_on_after_failures() -> None:
    """An inode that the kernel has forgotten is no news; what is asked twice is done once."""
    entered, go_on, done = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def invalidate(inode: int) -> None:
        seen.append(inode)
        entered.set()
        assert go_on.wait(10)
        if inode == 3:
            done.set()
        raise FileNotFoundError

    thread = InvalidationThread(invalidate, 10)
    thread.start()
    thread.invalidate(1)
    assert entered.wait(10)
    for inode in (2, 2, 3):
        thread.invalidate(inode)
    go_on.set()
    assert done.wait(10)
    assert thread.stop()
    assert seen == [1, 2, 3]


@pytest.mark.expects_log("may look stale")
def test_invalidation_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    thread = InvalidationThread(lambda inode: None, 2)
    for inode in (1, 2, 3):
        thread.invalidate(inode)
    assert "inode 3 may look stale" in caplog.text
    assert thread.stop()
