"""Objects of any name and locator key, by librados itself: the binding takes text only."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_librados = ctypes.CDLL("librados.so.2")
_librados.rados_write_full.argtypes = [
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
]


def _check(code: int) -> None:
    if code < 0:
        raise OSError(-code, os.strerror(-code))


class RawPool:
    def __init__(self, ioctx: ctypes.c_void_p) -> None:
        self._ioctx = ioctx

    def put(self, name: bytes, content: bytes, locator: bytes | None = None) -> None:
        _librados.rados_ioctx_locator_set_key(self._ioctx, locator)
        _check(_librados.rados_write_full(self._ioctx, name, content, len(content)))


@contextlib.contextmanager
def raw_pool(conf_path: Path, pool: str) -> Iterator[RawPool]:
    cluster, ioctx = ctypes.c_void_p(), ctypes.c_void_p()
    _check(_librados.rados_create(ctypes.byref(cluster), b"admin"))
    try:
        _check(_librados.rados_conf_read_file(cluster, os.fsencode(conf_path)))
        _check(_librados.rados_connect(cluster))
        _check(_librados.rados_ioctx_create(cluster, pool.encode(), ctypes.byref(ioctx)))
        yield RawPool(ioctx)
        _librados.rados_ioctx_destroy(ioctx)
    finally:
        _librados.rados_shutdown(cluster)
