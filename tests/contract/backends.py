"""The stores under one suite, and what the suite does to them from outside."""

import contextlib
import itertools
import uuid
from contextlib import AbstractContextManager
from typing import Any, Protocol

from radosmount.config import Driver, StoreConfig
from radosmount.lab import Lab
from radosmount.store.interface import ObjectKey, Store
from radosmount.store.memory import MemoryStore
from radosmount.store.rados.store import RadosStore, open_rados_store

_numbers = itertools.count(1)


class Backend(Protocol):
    """A store with one pool that is ready for use, of which each test has a namespace."""

    store: Store
    pool_id: int
    namespace: bytes

    async def add_pool(self) -> int: ...
    async def remove_pool(self, pool_id: int) -> None: ...
    async def without_read_cap(self) -> Store: ...
    async def without_write_cap(self) -> Store: ...
    def held(self) -> AbstractContextManager[None]:
        """Calls that begin inside may take as long as the block does."""

    async def aclose(self) -> None: ...


def key_in(backend: Backend, name: bytes, locator: bytes = b"") -> ObjectKey:
    return ObjectKey(backend.pool_id, backend.namespace, name, locator)


class MemoryBackend:
    def __init__(self) -> None:
        self._memory = MemoryStore()
        self.store: Store = self._memory
        self.pool_id = 1
        self.namespace = b"a"

    async def add_pool(self) -> int:
        return self._memory.add_pool(b"pool-%d" % next(_numbers))

    async def remove_pool(self, pool_id: int) -> None:
        self._memory.remove_pool(pool_id)

    async def without_read_cap(self) -> Store:
        self._memory.set_caps(self.pool_id, is_readable=False, is_writable=True)
        return self._memory

    async def without_write_cap(self) -> Store:
        self._memory.set_caps(self.pool_id, is_readable=True, is_writable=False)
        return self._memory

    def held(self) -> AbstractContextManager[None]:
        return self._memory.paused()

    async def aclose(self) -> None:
        await self._memory.aclose()


class RadosBackend:
    """By one of the two drivers."""

    def __init__(self, lab: Lab, store: RadosStore, pool_id: int, driver: Driver) -> None:
        self._lab = lab
        self._driver = driver
        self._others: list[RadosStore] = []
        self.store: Store = store
        self.pool_id = pool_id
        self.namespace = uuid.uuid4().hex.encode()

    async def add_pool(self) -> int:
        name = f"contract-{next(_numbers)}"
        self._lab.create_pool(name)
        await self.store.refresh_pools()
        return pool_id_of(self.store, name)

    async def remove_pool(self, pool_id: int) -> None:
        [name] = [pool.name.decode() for pool in self.store.pools() if pool.pool_id == pool_id]
        self._lab.delete_pool(name)

    async def without_read_cap(self) -> Store:
        return await self._with_caps("allow w")

    async def without_write_cap(self) -> Store:
        return await self._with_caps("allow r")

    def held(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    async def aclose(self) -> None:
        for store in [*self._others, self.store]:
            await store.aclose()

    async def _with_caps(self, osd_caps: str) -> Store:
        name = f"contract-{next(_numbers)}"
        keyring = self._lab.add_user(name, mon="allow r", osd=osd_caps)
        who = {"client_name": f"client.{name}", "keyring_path": str(keyring)}
        config = store_config(self._lab, driver=self._driver, **who)
        self._others.append(await open_rados_store(config))
        return self._others[-1]


async def open_rados_backend(lab: Lab, pool: str, driver: Driver) -> RadosBackend:
    store = await open_rados_store(store_config(lab, driver=driver))
    return RadosBackend(lab, store, pool_id_of(store, pool), driver)


def store_config(lab: Lab, **settings: Any) -> StoreConfig:
    return StoreConfig(conf_path=str(lab.conf_path), **settings)


def pool_id_of(store: Store, name: str) -> int:
    [pool_id] = [pool.pool_id for pool in store.pools() if pool.name == name.encode()]
    return pool_id
