"""Listing objects through librados's C interface, because the binding hides every error.

`Ioctx.list_objects` ends at EPERM, at a time-out and in a deleted pool as if that were all
(docs/decisions/0008). `rados_object_list` answers errno, ENOENT for a pool that is gone, and a
whole batch in one call: by `rados_nobjects_list_next2` the GIL would change hands at each name.

A handle of its own, as the binding's cannot be had from outside; opened at the first listing.
Everything here blocks. Each `Cursor` is used by one thread at a time, which its lock ensures.
"""

import ctypes
import functools
import struct
import threading
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any, Final

from radosmount.config import StoreConfig
from radosmount.errors import Disconnected, PoolGone, StoreError
from radosmount.store.interface import ListedObject
from radosmount.store.rados import connection, translation

# Large enough that the GIL and the loop are rarely asked, small enough that the first names
# come after milliseconds.
BATCH_COUNT: Final = 1000

_ENOENT: Final = -2
_ERANGE: Final = -34


class _Item(ctypes.Structure):
    """`rados_object_list_item` of librados.h."""

    _fields_ = (
        ("name_length", c_size_t),
        ("name", c_void_p),
        ("namespace_length", c_size_t),
        ("namespace", c_void_p),
        ("locator_length", c_size_t),
        ("locator", c_void_p),
    )


# The same as integers, of many at a time: a `_Item` for each would cost more than the names.
_ITEMS: Final = struct.Struct("@6N")

# From its fields in a tuple: half the price of the call of the class.
_listed = functools.partial(tuple.__new__, ListedObject)


# Result and arguments, as librados.h declares them.
_PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "rados_create2": (ctypes.c_int, (POINTER(c_void_p), c_char_p, c_char_p, c_uint64)),
    "rados_conf_read_file": (ctypes.c_int, (c_void_p, c_char_p)),
    "rados_conf_parse_env": (ctypes.c_int, (c_void_p, c_char_p)),
    "rados_conf_set": (ctypes.c_int, (c_void_p, c_char_p, c_char_p)),
    "rados_connect": (ctypes.c_int, (c_void_p,)),
    "rados_shutdown": (None, (c_void_p,)),
    "rados_ioctx_create2": (ctypes.c_int, (c_void_p, c_int64, POINTER(c_void_p))),
    "rados_ioctx_destroy": (None, (c_void_p,)),
    "rados_ioctx_set_namespace": (None, (c_void_p, c_char_p)),
    "rados_ioctx_locator_set_key": (None, (c_void_p, c_char_p)),
    "rados_ioctx_snap_list": (ctypes.c_int, (c_void_p, POINTER(c_uint64), ctypes.c_int)),
    "rados_stat": (ctypes.c_int, (c_void_p, c_char_p, POINTER(c_uint64), POINTER(c_int64))),
    "rados_object_list_begin": (c_void_p, (c_void_p,)),
    "rados_object_list_end": (c_void_p, (c_void_p,)),
    "rados_object_list_is_end": (ctypes.c_int, (c_void_p, c_void_p)),
    "rados_object_list_cursor_free": (None, (c_void_p, c_void_p)),
    "rados_object_list": (
        ctypes.c_int,
        (
            *(c_void_p, c_void_p, c_void_p, c_size_t, c_char_p, c_size_t),
            *(POINTER(_Item), POINTER(c_void_p)),
        ),
    ),
    "rados_object_list_free": (None, (c_size_t, POINTER(_Item))),
}


Decode = Callable[[int, int], list[tuple[bytes, bytes, bytes]]]


def decode(address: int, count: int) -> list[tuple[bytes, bytes, bytes]]:
    """Of so many `_Item` there, (namespace, name, locator) of the objects that librados can name.
    The compiled module has the same, faster: `decode_listing`."""
    items = (ctypes.c_char * (count * _ITEMS.size)).from_address(address)
    text = ctypes.string_at
    found = []
    for name_length, name, space_length, space, key_length, key in _ITEMS.iter_unpack(items):
        name = text(name, name_length)
        key = text(key, key_length) if key_length else b""
        if b"\0" not in name and b"\0" not in key:
            found.append((text(space, space_length) if space_length else b"", name, key))
    return found


class ListingHandle:
    """The second connection to the cluster, made when first needed. Any thread may use it."""

    def __init__(self, config: StoreConfig, decode: Decode = decode) -> None:
        self._config = config
        self._decode = decode
        self._lock = threading.Lock()
        self._library: ctypes.CDLL | None = None
        self._handle: c_void_p | None = None
        self._cursors: set[Cursor] = set()  # those that are open
        self._is_closed = False

    def cursor(self, pool_id: int, namespace: bytes) -> "Cursor":
        """The start of a listing. Asks nothing of the cluster yet."""
        return Cursor(self._connected, self._cursors, self._decode, pool_id, namespace)

    def close(self) -> None:
        """No `next_batch` may be under way. Cursors are closed: they cannot outlive it."""
        with self._lock:
            self._is_closed = True
            for cursor in tuple(self._cursors):
                cursor.close()
            if self._library is not None and self._handle is not None:
                self._library.rados_shutdown(self._handle)
            self._handle = None

    def _connected(self) -> tuple[ctypes.CDLL, c_void_p]:
        with self._lock:
            if self._is_closed:
                raise Disconnected("the connection is closed")
            if self._library is None:
                self._library = _load()
            if self._handle is None:
                self._handle = _connect(self._library, self._config)
            return self._library, self._handle


class Cursor:
    """A place in the listing of one namespace of one pool. To be closed.

    `unnameable_count`: objects left out so far because librados cannot name them (a NUL inside).
    """

    def __init__(
        self,
        connected: Callable[[], tuple[ctypes.CDLL, c_void_p]],
        open_cursors: "set[Cursor]",
        decode: Decode,
        pool_id: int,
        namespace: bytes,
    ) -> None:
        self.unnameable_count = 0
        self._connected = connected
        self._open_cursors = open_cursors
        self._decode = decode
        self._pool_id = pool_id
        self._namespace = namespace
        self._lock = threading.Lock()  # held while librados works on the members below
        self._library: Any = None
        self._ioctx: c_void_p | None = None
        self._position = self._end = c_void_p()
        self._is_closed = False

    def next_batch(self) -> list[ListedObject] | None:
        """Up to BATCH_COUNT objects, perhaps none; None at the end.

        Raises: PoolGone; what an OSD says, or that it says nothing; what connecting raises.
        """
        try:
            with self._lock:
                if self._is_closed:
                    raise Disconnected("the listing is closed")
                if self._ioctx is None:
                    self._open()
                return self._listed()
        finally:
            if self._is_closed:  # meanwhile, by a thread that could not wait for the lock
                self.close()

    def close(self) -> None:
        """Idempotent. Never waits: a `next_batch` under way frees everything at its end."""
        self._is_closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._free()
            finally:
                self._lock.release()

    def _open(self) -> None:
        self._library, handle = self._connected()
        self._ioctx = _open_ioctx(self._library, handle, self._pool_id, self._namespace)
        self._position = c_void_p(self._library.rados_object_list_begin(self._ioctx))
        self._end = c_void_p(self._library.rados_object_list_end(self._ioctx))
        self._open_cursors.add(self)

    def _free(self) -> None:
        if self._ioctx is not None:
            for position in (self._position, self._end):
                self._library.rados_object_list_cursor_free(self._ioctx, position)
            self._library.rados_ioctx_destroy(self._ioctx)
        self._ioctx = None
        self._open_cursors.discard(self)

    def _listed(self) -> list[ListedObject] | None:
        if self._library.rados_object_list_is_end(self._ioctx, self._position):
            return None
        listed = self._fetch()
        if self._has_snapshots():
            # Removed objects are listed as long as a snapshot has them.
            listed = [found for found in listed if self._exists(found)]
        return listed

    def _fetch(self) -> list[ListedObject]:
        items = (_Item * BATCH_COUNT)()
        # librados aborts the process unless it is given a cursor to overwrite.
        following = c_void_p(self._library.rados_object_list_begin(self._ioctx))
        code = self._library.rados_object_list(
            *(self._ioctx, self._position, self._end, BATCH_COUNT, None, 0),
            *(items, byref(following)),
        )
        if code < 0:
            self._library.rados_object_list_cursor_free(self._ioctx, following)
            raise self._failure(code)
        self._library.rados_object_list_cursor_free(self._ioctx, self._position)
        self._position = following
        try:
            found = self._decode(ctypes.addressof(items), code)
        finally:
            self._library.rados_object_list_free(code, items)
        self.unnameable_count += code - len(found)
        return [*map(_listed, found)]

    def _has_snapshots(self) -> bool:
        """From the osdmap that this handle has; ERANGE: more than the one asked for."""
        code = self._library.rados_ioctx_snap_list(self._ioctx, (c_uint64 * 1)(), 1)
        return bool(code > 0 or code == _ERANGE)

    def _exists(self, found: ListedObject) -> bool:
        # The listing itself takes no notice of the locator.
        self._library.rados_ioctx_locator_set_key(self._ioctx, found.locator or None)
        size, mtime = c_uint64(), c_int64()
        code = self._library.rados_stat(self._ioctx, found.name, byref(size), byref(mtime))
        if code < 0 and code != _ENOENT:
            raise self._failure(code)
        return bool(code == 0)

    def _failure(self, code: int) -> StoreError:
        if code == _ENOENT:
            return PoolGone(f"pool {self._pool_id} does not exist (any more)")
        return translation.from_errno(code, f"listing pool {self._pool_id}")


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL("librados.so.2")
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _connect(library: ctypes.CDLL, config: StoreConfig) -> c_void_p:
    """As connection.connect, which went well before: so no words on what to do."""
    handle = c_void_p()
    cluster, name = config.cluster.encode(), config.client_name.encode()
    _check(library.rados_create2(byref(handle), cluster, name, 0))
    try:
        path = None if config.conf_path is None else config.conf_path.encode()
        code = library.rados_conf_read_file(handle, path)
        if not (code == _ENOENT and config.monitor_hosts is not None):
            _check(code)
        _check(library.rados_conf_parse_env(handle, b"CEPH_ARGS"))
        for key, value in connection.settings(config):
            _check(library.rados_conf_set(handle, key.encode(), value.encode()))
        _check(library.rados_connect(handle))
    except StoreError:
        library.rados_shutdown(handle)
        raise
    return handle


def _open_ioctx(library: ctypes.CDLL, handle: c_void_p, pool_id: int, namespace: bytes) -> c_void_p:
    ioctx = c_void_p()
    code = library.rados_ioctx_create2(handle, pool_id, byref(ioctx))
    if code == _ENOENT:
        raise PoolGone(f"pool {pool_id} does not exist (any more)")
    _check(code)
    library.rados_ioctx_set_namespace(ioctx, namespace)
    return ioctx


def _check(code: int) -> None:
    if code < 0:
        raise translation.from_errno(code, "connecting for a listing")
