"""What goes back to the kernel: attributes, and the one translation of errors to errnos.

Only FUSEError may leave a handler. Anything else ends pyfuse3's loop, and the mount with every
unstored byte: so an unknown exception is logged with its traceback and becomes EIO. Until it is
answered a caller cannot even be killed (no interrupts reach us): every wait below ends, by the
store's time-out or by the deadline of a flush.
"""

import errno
import functools
import logging
import stat
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Concatenate, Final, Generic, NoReturn, ParamSpec, TypeVar, cast

import pyfuse3

from radosmount.errors import RadosmountError
from radosmount.vfs.attributes import PREFERRED_IO_BYTES, Attributes
from radosmount.vfs.usage import SpaceUsage

log = logging.getLogger(__name__)

# statfs(2) counts in units; df shows them as they are.
UNIT_BYTES: Final = 4096
NAME_BYTES_MAX: Final = 255
DIRECTORY_NAME_FRESHNESS_S: Final = 1.0
SECTOR_BYTES: Final = 512  # of st_blocks (stat(2))

P = ParamSpec("P")
T = TypeVar("T")


class Answering(pyfuse3.Operations):
    """Base of handlers that are decorated by `answers`.

    `hand_over`: called when a handler is about to wait for the first time (see loop.py).
    """

    def __init__(self) -> None:
        super().__init__()
        self.hand_over: Callable[[], None] = _keep


def _keep() -> None:
    pass


S = TypeVar("S", bound=Answering)
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def answers(handler: Handler[S, P, T]) -> Handler[S, P, T]:
    """For every handler. One that never waits runs as the call that it looks like: pyfuse3 awaits
    what it returns at once."""

    @functools.wraps(handler)
    def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        coroutine = handler(self, *args, **kwargs)
        try:
            trap = coroutine.send(None)
        except StopIteration as finished:
            return cast(Awaitable[T], _Answer(finished.value))
        except pyfuse3.FUSEError:
            raise
        except Exception as failure:  # not BaseException: trio.Cancelled must pass
            raise _reply(failure, handler.__name__, args) from failure
        self.hand_over()
        return _finished(coroutine, trap, handler.__name__, args)

    return cast(Handler[S, P, T], wrapper)


class _Answer(Generic[T]):
    """An awaitable that does not wait."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> "_Answer[T]":
        return self

    def __iter__(self) -> "_Answer[T]":
        return self

    def __next__(self) -> NoReturn:
        raise StopIteration(self._value)


@types.coroutine
def _finished(
    coroutine: Coroutine[Any, Any, T], trap: object, name: str, args: tuple[object, ...]
) -> Generator[Any, Any, T]:
    try:
        return (yield from _resumed(coroutine, trap))
    except pyfuse3.FUSEError:
        raise
    except Exception as failure:
        raise _reply(failure, name, args) from failure


def _reply(failure: Exception, name: str, args: tuple[object, ...]) -> pyfuse3.FUSEError:
    if isinstance(failure, RadosmountError):
        log.log(failure.log_level, "%s: %s", name, failure)
        return pyfuse3.FUSEError(failure.errno)
    log.error("%s%r: unexpected", name, args, exc_info=failure)
    return pyfuse3.FUSEError(errno.EIO)


def _resumed(coroutine: Coroutine[Any, Any, T], trap: object) -> Generator[Any, Any, T]:
    """What `await coroutine` would do if its first step, to `trap`, were not done already
    (PEP 380)."""
    while True:
        try:
            value = yield trap
        except BaseException as failure:
            resume = functools.partial(coroutine.throw, failure)
        else:
            resume = functools.partial(coroutine.send, value)
        try:
            trap = resume()
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]


def entry_attributes(
    attributes: Attributes, name_timeout_s: float = 0.0
) -> pyfuse3.EntryAttributes:
    """`name_timeout_s`: how long the kernel may keep the name itself. A file's that was looked up
    it may not, since an open goes by the look-up just before it; one that was listed it may:
    whatever is done with it asks, and ESTALE, where the object is gone, has the kernel look the
    name up. A directory's is on the way to every file below it: it is kept for a second."""
    if stat.S_ISDIR(attributes.mode):
        name_timeout_s = DIRECTORY_NAME_FRESHNESS_S
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(attributes.ino)
    entry.generation = 0
    entry.entry_timeout = name_timeout_s
    entry.attr_timeout = attributes.valid_s
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
