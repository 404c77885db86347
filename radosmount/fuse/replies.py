"""How each request ends: the one translation of errors to errnos.

Only FUSEError may leave a handler. Anything else ends pyfuse3's loop, and the mount with every
unstored byte: so an unknown exception is logged with its traceback and becomes EIO. Until it is
answered a caller cannot even be killed (no interrupts reach us): every wait below ends, by the
store's time-out or by the deadline of a flush.
"""

import errno
import functools
import logging
import types
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3

from radosmount.errors import RadosmountError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=pyfuse3.Operations)
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def answers(handler: Handler[S, P, T]) -> Handler[S, P, T]:
    """For every handler that pyfuse3 calls."""

    @functools.wraps(handler)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except Exception as failure:  # not BaseException: trio.Cancelled must pass
            raise pyfuse3.FUSEError(errno_of(failure, handler.__name__, args)) from failure

    return cast(Handler[S, P, T], wrapper)


def without_answers(method: Any) -> Any:
    """A bound method of `Operations` as it is below `answers`: for a caller that translates."""
    bare = getattr(method, "__wrapped__", None)
    return method if bare is None else types.MethodType(bare, method.__self__)


def errno_of(failure: Exception, name: str, args: tuple[object, ...]) -> int:
    """What a handler called `name` answers; logged, if it is of any interest."""
    if isinstance(failure, RadosmountError):
        log.log(failure.log_level, "%s: %s", name, failure)
        return failure.errno
    if isinstance(failure, pyfuse3.FUSEError):
        return failure.errno
    log.error("%s%r: unexpected", name, args, exc_info=failure)
    return errno.EIO
