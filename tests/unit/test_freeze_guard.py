"""A read that holds the GIL cannot stop the process for good."""

import ctypes
import errno
import os

from radosmount.fuse.session import freeze_guard


def test_a_blocking_read_with_the_gil_held_is_interrupted() -> None:
    """As pyfuse3's read of /dev/fuse when the caller was killed just before it."""
    libc = ctypes.PyDLL(None, use_errno=True)  # unlike CDLL it keeps the GIL
    read_fd, write_fd = os.pipe()
    try:
        with freeze_guard():
            assert libc.read(read_fd, ctypes.create_string_buffer(1), 1) == -1
        assert ctypes.get_errno() == errno.EINTR
    finally:
        os.close(read_fd)
        os.close(write_fd)
