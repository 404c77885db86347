"""`radosmount umount`: flush, unmount, and wait until the daemon has ended.

umount(8) returns at once and leaves the daemon to flush after it; this tells whether it worked.
"""

import contextlib
import errno
import os
import select
import sys
import threading
from collections.abc import Iterator

from radosmount.config import PID_XATTR, UNSTORED_XATTR
from radosmount.errors import MountError
from radosmount.fuse import mounts

FSTYPE = "fuse.radosmount"
PATIENCE_S = 5.0  # between two progress lines


def unmount(mountpoint: str, *, is_lazy: bool) -> None:
    """Return once all is in RADOS and the daemon has ended.

    `is_lazy` detaches a mount that is in use, and does not wait. Raises: MountError; after a
    failed flush nothing is unmounted.
    """
    path = mounts.canonical(mountpoint)
    check_is_radosmount(path)
    try:
        daemon_fd = open_daemon(path)
        with progress_told(path):
            flush(path)
    except OSError as failure:
        if failure.errno != errno.ENOTCONN:
            raise MountError(f"cannot flush {path}: {failure.strerror}; still mounted") from failure
        return detach(path, is_lazy=True)  # its process has died: nothing is left to flush
    try:
        detach(path, is_lazy=is_lazy)
        if not is_lazy:
            wait_for_end(daemon_fd)
    finally:
        os.close(daemon_fd)


def check_is_radosmount(path: str) -> None:
    mount = mounts.find_mount(path)
    if mount is None:
        raise MountError(f"nothing is mounted on {path}")
    if mount.fstype != FSTYPE:
        raise MountError(f"{path} is no radosmount ({mount.source}, {mount.fstype}): use umount")


def open_daemon(path: str) -> int:
    """A pidfd of the daemon: unlike its pid, it never means another process."""
    return os.pidfd_open(int(os.getxattr(path, PID_XATTR)))


@contextlib.contextmanager
def progress_told(path: str) -> Iterator[None]:
    """Meanwhile a line on stderr now and then, about what is left."""
    is_done = threading.Event()

    def tell() -> None:
        while not is_done.wait(PATIENCE_S):
            with contextlib.suppress(OSError):  # whoever flushes hears of it
                left = os.fsdecode(os.getxattr(path, UNSTORED_XATTR))
                print(f"radosmount: writing back: {left} left", file=sys.stderr)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        is_done.set()
        teller.join()


def flush(path: str) -> None:
    """fsync of the root writes everything of the mount. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def detach(path: str, *, is_lazy: bool) -> None:
    try:
        mounts.detach(path, is_lazy=is_lazy)
    except OSError as failure:
        if failure.errno == errno.EBUSY:
            raise MountError(
                f"{path} is in use (fuser -vm {path} shows by whom); all is flushed, "
                "but still mounted: try again, or umount -l"
            ) from failure
        raise MountError(f"cannot unmount {path}: {failure.strerror or failure}") from failure


def wait_for_end(daemon_fd: int) -> None:
    waited_s = 0.0
    while not select.select([daemon_fd], [], [], PATIENCE_S)[0]:
        waited_s += PATIENCE_S
        print(f"radosmount: waiting for the daemon to end ({waited_s:.0f} s)", file=sys.stderr)
