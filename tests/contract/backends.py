"""The two stores under one suite, and what the suite does to them from outside."""

import contextlib
import itertools
import subprocess
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from radosmount.config import StoreConfig
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
    def __init__(self, conf_path: Path, directory: Path, store: RadosStore, pool_id: int) -> None:
        self._conf_path = conf_path
        self._directory = directory
        self._others: list[RadosStore] = []
        self.store: Store = store
        self.pool_id = pool_id
        self.namespace = uuid.uuid4().hex.encode()

    async def add_pool(self) -> int:
        name = f"contract-{next(_numbers)}"
        make_pool(self._conf_path, name)
        await self.store.refresh_pools()
        return pool_id_of(self.store, name)

    async def remove_pool(self, pool_id: int) -> None:
        [name] = [pool.name.decode() for pool in self.store.pools() if pool.pool_id == pool_id]
        ceph(self._conf_path, "osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")

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
        name = f"client.contract-{next(_numbers)}"
        keyring = self._directory / f"{name}.keyring"
        caps = ("mon", "allow r", "osd", osd_caps)
        ceph(self._conf_path, "auth", "get-or-create", name, *caps, "-o", str(keyring))
        config = StoreConfig(
            client_name=name, conf_path=str(self._conf_path), keyring_path=str(keyring)
        )
        self._others.append(await open_rados_store(config))
        return self._others[-1]


async def open_rados_backend(conf_path: Path, directory: Path, pool: str) -> RadosBackend:
    store = await open_rados_store(StoreConfig(conf_path=str(conf_path), timeout_s=20))
    return RadosBackend(conf_path, directory, store, pool_id_of(store, pool))


def pool_id_of(store: Store, name: str) -> int:
    [pool_id] = [pool.pool_id for pool in store.pools() if pool.name == name.encode()]
    return pool_id


def make_pool(conf_path: Path, name: str) -> None:
    ceph(conf_path, "osd", "pool", "create", name, "4", "4")
    ceph(conf_path, "osd", "pool", "application", "enable", name, "rados")


def ceph(conf_path: Path, *arguments: str) -> str:
    command = ["ceph", "-c", str(conf_path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
