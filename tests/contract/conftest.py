"""`backend`: each test of this directory runs on the memory store and on a real cluster."""

from collections.abc import AsyncIterator

import pytest

from radosmount.lab import Lab
from radosmount.store.interface import Store
from tests.contract.backends import Backend, MemoryBackend, open_rados_backend
from tests.support.cluster import SHARED_POOL


@pytest.fixture(params=["memory", "rados"])
def backend_lab(request: pytest.FixtureRequest) -> Lab | None:
    """None for the memory store, which starts no cluster."""
    if request.param == "memory":
        return None
    lab: Lab = request.getfixturevalue("lab")
    return lab


@pytest.fixture
async def backend(backend_lab: Lab | None) -> AsyncIterator[Backend]:
    opened: Backend = MemoryBackend()
    if backend_lab is not None:
        opened = await open_rados_backend(backend_lab, SHARED_POOL)
    yield opened
    await opened.aclose()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store
