"""`backend`: each test of this directory runs on the memory store and on a real cluster."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from radosmount.store.interface import Store
from tests.contract.backends import Backend, MemoryBackend, make_pool, open_rados_backend

POOL = "contract"


@pytest.fixture(scope="session")
def cluster_conf_path(lab) -> Path:  # type: ignore[no-untyped-def]
    """The lab's ceph.conf, once it has the pool that all these tests share."""
    path = Path(lab.conf_path)
    make_pool(path, POOL)
    return path


@pytest.fixture(params=["memory", "rados"])
def conf_path(request: pytest.FixtureRequest) -> Path | None:
    """None for the memory store, which starts no cluster."""
    if request.param == "memory":
        return None
    path: Path = request.getfixturevalue("cluster_conf_path")
    return path


@pytest.fixture
async def backend(conf_path: Path | None, tmp_path: Path) -> AsyncIterator[Backend]:
    opened: Backend = MemoryBackend()
    if conf_path is not None:
        opened = await open_rados_backend(conf_path, tmp_path, POOL)
    yield opened
    await opened.aclose()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store
