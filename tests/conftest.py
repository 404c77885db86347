"""Fixtures of all tests: a private Ceph, and a log that has to stay quiet."""

import logging
import os
import re
from collections.abc import Iterator

import pytest

from tests.support.cluster import lab, namespace, pool, shared_pool

__all__ = ["lab", "namespace", "pool", "quiet_log", "shared_pool"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "expects_log(regex): the test causes log records of WARNING or above like this"
    )


class _Recorder(logging.Handler):
    """Keeps every record of WARNING or above, from any thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def quiet_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """WARNING or above in radosmount's log fails a test that did not ask for it."""
    expected = [mark.args[0] for mark in request.node.iter_markers("expects_log")]
    recorder = _Recorder()
    logger = logging.getLogger("radosmount")
    logger.addHandler(recorder)
    yield
    logger.removeHandler(recorder)
    messages = [f"{record.levelname} {record.getMessage()}" for record in recorder.records]
    surprises = [m for m in messages if not any(re.search(regex, m) for regex in expected)]
    if surprises:
        pytest.fail("unexpected in the log:\n" + "\n".join(surprises))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """(end to read, which does not block; end to write)"""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)
