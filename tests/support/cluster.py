"""The one private Ceph of a test session, and fresh places in it."""

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from radosmount.lab import Lab

SHARED_POOL = "shared"

_numbers = itertools.count(1)


@contextlib.contextmanager
def temporary_lab(osd_count: int = 1, pools: tuple[str, ...] = ()) -> Iterator[Lab]:
    """A lab in a folder of its own, short enough for Ceph's sockets; nothing is left of it."""
    folder = Path(tempfile.mkdtemp(prefix="lab."))
    try:
        with Lab(folder / "ceph", osd_count, pools=pools) as lab:
            yield lab
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One private Ceph for the whole session, started by the first test that asks for it."""
    with temporary_lab(pools=(SHARED_POOL,)) as running:
        yield running


@pytest.fixture
def pool(lab: Lab) -> Iterator[str]:
    """A fresh pool (half a second); a test that needs none but its objects takes `namespace`."""
    name = f"pool-{next(_numbers)}"
    lab.create_pool(name)
    yield name
    lab.delete_pool(name)


@pytest.fixture
def shared_pool(lab: Lab) -> str:
    """The pool that all tests share, each in a namespace of its own."""
    return SHARED_POOL


@pytest.fixture
def namespace() -> str:
    """A namespace of `shared_pool` that no other test uses. Costs nothing."""
    return f"ns-{next(_numbers)}"
