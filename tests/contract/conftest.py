"""`backend`: each test of this directory runs on the memory store, and on a real cluster by
either driver."""

from collections.abc import AsyncIterator

import pytest

from radosmount.config import Driver
from radosmount.lab import Lab
from radosmount.store.interface import Store
from tests.contract.backends import Backend, MemoryBackend, open_rados_backend
from tests.support.cluster import SHARED_POOL


@pytest.fixture(params=["memory", "binding", "native"])
def backend_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "native":
        pytest.importorskip("radosmount.store.rados.native._native", reason="not built")
    return name


@pytest.fixture
def backend_lab(request: pytest.FixtureRequest, backend_name: str) -> Lab | None:
    """None for the memory store, which starts no cluster."""
    if backend_name == "memory":
        return None
    lab: Lab = request.getfixturevalue("lab")
    return lab


@pytest.fixture
async def backend(backend_lab: Lab | None, backend_name: str) -> AsyncIterator[Backend]:
    opened: Backend = MemoryBackend()
    if backend_lab is not None:
        driver: Driver = "native" if backend_name == "native" else "binding"
        opened = await open_rados_backend(backend_lab, SHARED_POOL, driver)
    yield opened
    await opened.aclose()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store
