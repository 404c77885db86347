"""Objects of any name, locator key, xattrs and omap, by librados: the binding takes text only."""

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_librados = ctypes.CDLL("librados.so.2")
_librados.rados_create_write_op.restype = ctypes.c_void_p


def _check(code: int) -> None:
    if code < 0:
        raise OSError(-code, os.strerror(-code))


class RawPool:
    def __init__(self, ioctx: ctypes.c_void_p) -> None:
        self._ioctx = ioctx

    def put(self, name: bytes, content: bytes, locator: bytes | None = None) -> None:
        """`locator`: for what is put and set from now on."""
        _librados.rados_ioctx_locator_set_key(self._ioctx, locator)
        size = ctypes.c_size_t(len(content))
        _check(_librados.rados_write_full(self._ioctx, name, content, size))

    def set_xattr(self, name: bytes, key: bytes, value: bytes) -> None:
        size = ctypes.c_size_t(len(value))
        _check(_librados.rados_setxattr(self._ioctx, name, key, value, size))

    def set_omap(self, name: bytes, omap: Mapping[bytes, bytes]) -> None:
        count = len(omap)
        keys = (ctypes.c_char_p * count)(*omap)
        values = (ctypes.c_char_p * count)(*omap.values())
        lengths = (ctypes.c_size_t * count)(*map(len, omap.values()))
        operation = ctypes.c_void_p(_librados.rados_create_write_op())
        _librados.rados_write_op_omap_set(operation, keys, values, lengths, ctypes.c_size_t(count))
        _check(_librados.rados_write_op_operate(operation, self._ioctx, name, None, 0))
        _librados.rados_release_write_op(operation)


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
