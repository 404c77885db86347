"""What goes back to the kernel: attributes, and the one translation of errors to errnos.

Only FUSEError may leave a handler. Anything else ends pyfuse3's loop, and the mount with every
unstored byte: so an unknown exception is logged with its traceback and becomes EIO, and no
handler waits for ever.
"""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from radosmount.errors import RadosmountError
from radosmount.vfs.attributes import PREFERRED_IO_BYTES, Attributes
from radosmount.vfs.usage import SpaceUsage

log = logging.getLogger(__name__)

# statfs(2) counts in units; df shows them as they are.
UNIT_BYTES: Final = 4096
NAME_BYTES_MAX: Final = 255
SECTOR_BYTES: Final = 512  # of st_blocks (stat(2))

P = ParamSpec("P")
T = TypeVar("T")


class HasTimeout(Protocol):
    timeout_s: float


S = TypeVar("S", bound=HasTimeout)
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def answers(handler: Handler[S, P, T]) -> Handler[S, P, T]:
    """For handlers that end by themselves, or wait only as long as something is acknowledged."""

    @functools.wraps(handler)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except RadosmountError as failure:
            log.log(failure.log_level, "%s: %s", handler.__name__, failure)
            raise pyfuse3.FUSEError(failure.errno) from failure
        except Exception as bug:  # not BaseException: trio.Cancelled must pass
            log.exception("%s%r: unexpected", handler.__name__, args)
            raise pyfuse3.FUSEError(errno.EIO) from bug

    return wrapper


def answers_in_time(handler: Handler[S, P, T]) -> Handler[S, P, T]:
    """For all others: after `timeout_s` the caller gets ETIMEDOUT.

    Until it is answered, a caller cannot even be killed (fuse(4): no interrupts here).
    """

    @functools.wraps(handler)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with trio.move_on_after(self.timeout_s):
            return await handler(self, *args, **kwargs)
        log.error("%s%r: no answer in %g s", handler.__name__, args, self.timeout_s)
        raise pyfuse3.FUSEError(errno.ETIMEDOUT)

    return answers(wrapper)


def entry_attributes(attributes: Attributes) -> pyfuse3.EntryAttributes:
    """Time-outs of 0: any client of the cluster may change an object at any time, so the
    kernel asks; it keeps pages as long as size and mtime stay."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(attributes.ino)
    entry.generation = 0
    entry.entry_timeout = 0
    entry.attr_timeout = 0
    entry.st_mode = pyfuse3.ModeT(attributes.mode)
    entry.st_nlink = attributes.nlink
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_size = attributes.size
    entry.st_blksize = PREFERRED_IO_BYTES
    entry.st_blocks = -(-attributes.size // SECTOR_BYTES)
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attributes.mtime_ns
    return entry


def statvfs_data(usage: SpaceUsage) -> pyfuse3.StatvfsData:
    data = pyfuse3.StatvfsData()
    data.f_bsize = PREFERRED_IO_BYTES
    data.f_frsize = UNIT_BYTES
    data.f_blocks = usage.total_bytes // UNIT_BYTES
    data.f_bfree = data.f_bavail = usage.available_bytes // UNIT_BYTES
    data.f_files = usage.object_count
    data.f_ffree = data.f_favail = 0
    data.f_namemax = NAME_BYTES_MAX
    return data
