"""The I/O contexts of one thread, one for each pool, namespace and locator key.

Never shared between threads: `get_last_version` is the version of the last call on the ioctx,
whoever made it. Never changed once made: an ioctx has its namespace and locator for life.
"""

import collections

import rados

from radosmount import errors
from radosmount.store.interface import ObjectKey
from radosmount.store.rados import translation
from radosmount.store.rados.names import to_text

# 303 bytes each, 1.2 µs to open; objects with locator keys could else pile them up.
_IOCTX_COUNT_MAX = 64

_Place = tuple[int, bytes, bytes]


class Ioctxs:
    """Opens and keeps them; the least recently used one beyond the limit is closed."""

    def __init__(self, handle: rados.Rados) -> None:
        self.handle = handle
        self._ioctx_by_place: collections.OrderedDict[_Place, rados.Ioctx]
        self._ioctx_by_place = collections.OrderedDict()
        self._last_name_by_pool_id: dict[int, str] = {}

    def pool_exists(self, pool_id: int) -> bool:
        """Whether the osdmap that this client has seen holds the pool.

        By names, since librados asks a monitor about an id or a name that it does not know,
        without limit. The last known name first: it is asked at each object not found.
        """
        pool_names = self.handle.list_pools()
        last_name = self._last_name_by_pool_id.get(pool_id)
        if last_name in pool_names:
            pool_names.insert(0, last_name)
        for name in pool_names:
            if self.handle.pool_lookup(name) == pool_id:
                self._last_name_by_pool_id[pool_id] = name
                return True
        self._last_name_by_pool_id.pop(pool_id, None)
        return False

    def get(self, key: ObjectKey) -> rados.Ioctx:
        """The ioctx that reaches `key`. Raises: PoolGone."""
        place = (key.pool_id, key.namespace, key.locator)
        ioctx = self._ioctx_by_place.get(place)
        if ioctx is None:
            ioctx = self._ioctx_by_place[place] = self._open(key)
            self._evict()
        else:
            self._ioctx_by_place.move_to_end(place)
        return ioctx

    def close(self) -> None:
        while self._ioctx_by_place:
            self._ioctx_by_place.popitem()[1].close()

    def _evict(self) -> None:
        while len(self._ioctx_by_place) > _IOCTX_COUNT_MAX:
            self._ioctx_by_place.popitem(last=False)[1].close()

    def _open(self, key: ObjectKey) -> rados.Ioctx:
        if not self.pool_exists(key.pool_id):
            raise errors.PoolGone(f"pool {key.pool_id} does not exist (any more)")
        try:
            ioctx = self.handle.open_ioctx2(key.pool_id)
        except rados.Error as failure:
            raise translation.from_binding(failure, f"pool {key.pool_id}") from None
        # Without it a full pool blocks every write, even the removal that would make room.
        ioctx.set_osdmap_full_try()
        if key.namespace:
            ioctx.set_namespace(to_text(key.namespace))
        if key.locator:
            ioctx.set_locator_key(to_text(key.locator))
        return ioctx
