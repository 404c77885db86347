"""One mount of all pools for the quick tests, and the cluster beside it."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import rados

from radosmount.lab import Lab
from tests.mount.mounting import Mount, mounted
from tests.support.cluster import SHARED_POOL

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def all_pools(lab: Lab) -> Iterator[Mount]:
    """`ceph:`, with default options, for the whole session."""
    with mounted(lab, "ceph:") as mount:
        yield mount


@pytest.fixture
def root(all_pools: Mount, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The root of `all_pools`. The test fails for what its log says meanwhile, unless the mark
    `expects_log` asks for it."""
    yield all_pools.path
    expected = [mark.args[0] for mark in request.node.iter_markers("expects_log")]
    all_pools.check_log([*expected, "chmod and chown have no effect"])  # told once a mount


@pytest.fixture
def directory(root: Path) -> Path:
    """The directory of the pool that all tests share: each uses its own names."""
    return root / SHARED_POOL


@pytest.fixture
def name() -> str:
    """A name for a file that no other test uses; also to begin names with."""
    return f"file-{next(_numbers)}"


@pytest.fixture
def file(directory: Path, name: str) -> Path:
    """A path in `directory` where there is no file yet."""
    return directory / name


@pytest.fixture(scope="session")
def cluster(lab: Lab) -> Iterator[rados.Rados]:
    """Another client of the cluster."""
    client = rados.Rados(name="client.admin", conffile=str(lab.conf_path))
    client.connect(timeout=30)
    yield client
    client.shutdown()


@pytest.fixture
def objects(cluster: rados.Rados) -> Iterator[rados.Ioctx]:
    """The objects that `directory` shows, as another client sees them."""
    with contextlib.closing(cluster.open_ioctx(SHARED_POOL)) as ioctx:
        yield ioctx
