"""Two OSDs, one of them dead: what is on the other goes on."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import BinaryIO, Final

import pytest
import rados

from radosmount.config import MIB
from radosmount.lab import Lab
from radosmount.store.rados.conventions import PROBE_NAME
from tests.mount.mounting import mounted
from tests.support.cluster import temporary_lab

POOL: Final = "pool"
SLACK_S: Final = 7  # for a check that comes round, and a busy machine


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """A cluster of two OSDs, each with objects that the other has nothing to do with."""
    with temporary_lab(osd_count=2, pools=(POOL,)) as lab:
        yield lab


def test_others_go_on_beside_a_dead_osd(pair: Lab, name: str) -> None:
    """Files whose OSD does not answer leave a quarter of that to others, which are written and
    stored meanwhile."""
    options = "timeout=60,cache_size=64M,atomic_max=1M"
    dead, well = names_of_osd(pair, name, 1)[:3], names_of_osd(pair, name, 0)[:8]
    with mounted(pair, f"ceph:{POOL}", options) as mount:
        os.listdir(mount.path)
        with contextlib.ExitStack() as files, ThreadPoolExecutor(len(dead)) as writers:
            opened_files = [files.enter_context((mount.path / one).open("wb")) for one in dead]
            pair.signal("osd.1", signal.SIGSTOP)
            stuck = [writers.submit(write_much, file, 32 * MIB) for file in opened_files]
            try:
                with pytest.raises(NotYet):
                    stuck[0].result(3)
                began_s = time.monotonic()
                for one in well:
                    (mount.path / one).write_bytes(one.encode() * 100_000)
                took_s = time.monotonic() - began_s
                assert not any(writing.done() for writing in stuck)
            finally:
                pair.signal("osd.1", signal.SIGCONT)
            for writing in stuck:
                writing.result(60)
        assert took_s < SLACK_S
        for one in well:
            assert pair.rados("-p", POOL, "get", one, "-") == one.encode() * 100_000


def test_the_first_write_beside_a_dead_osd(pair: Lab, name: str) -> None:
    """Whether a pool may be written is asked of one OSD. If that one is dead, files of others are
    opened all the same, and stored."""
    silent = osds_of(pair, [PROBE_NAME.decode()])[0]
    well = names_of_osd(pair, name, 1 - silent)[:3]
    with mounted(pair, f"ceph:{POOL}", "timeout=30") as mount:
        os.listdir(mount.path)
        pair.signal(f"osd.{silent}", signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            for one in well:
                (mount.path / one).write_bytes(b"content")
            took_s = time.monotonic() - began_s
        finally:
            pair.signal(f"osd.{silent}", signal.SIGCONT)
        assert took_s < SLACK_S
        for one in well:
            assert pair.rados("-p", POOL, "get", one, "-") == b"content"


def test_many_who_ask_a_dead_osd(pair: Lab, name: str) -> None:
    """However many threads of programs wait for it, others of the pool have their place."""
    caller_count = 300
    dead, well = names_of_osd(pair, name, 1)[0], names_of_osd(pair, name, 0)[0]
    with mounted(pair, f"ceph:{POOL}", "timeout=60") as mount:
        (mount.path / dead).write_bytes(b"stored")
        pair.rados("-p", POOL, "put", well, "/proc/self/status")
        with ThreadPoolExecutor(caller_count) as callers:
            pair.signal("osd.1", signal.SIGSTOP)
            stuck = [callers.submit(os.stat, mount.path / dead) for _ in range(caller_count)]
            try:
                with pytest.raises(NotYet):
                    stuck[-1].result(2)
                began_s = time.monotonic()
                assert (mount.path / well).read_bytes()
                (mount.path / well).write_bytes(b"stored, too")
                took_s = time.monotonic() - began_s
                assert not any(asking.done() for asking in stuck)
            finally:
                pair.signal("osd.1", signal.SIGCONT)
            assert {asking.result(60).st_size for asking in stuck} == {6}
        assert took_s < SLACK_S


def names_of_osd(lab: Lab, name: str, osd: int) -> list[str]:
    """Where a look-up asks that OSD alone: for the object, and for a directory's marker."""
    names = [f"{name}-{number}" for number in range(64)]
    osds, marker_osds = osds_of(lab, names), osds_of(lab, [f"{one}/" for one in names])
    where = zip(names, osds, marker_osds, strict=True)
    return [one for one, of_object, of_marker in where if of_object == of_marker == osd]


def osds_of(lab: Lab, names: Sequence[str]) -> list[int]:
    """The number of the OSD that has each object."""
    cluster = rados.Rados(name="client.admin", conffile=str(lab.conf_path))
    cluster.connect(timeout=30)

    def osd_of(object_name: str) -> int:
        question = {"prefix": "osd map", "pool": POOL, "object": object_name, "format": "json"}
        _, answer, _ = cluster.mon_command(json.dumps(question), b"")
        found: int = json.loads(answer)["acting_primary"]
        return found

    try:
        return [osd_of(one) for one in names]
    finally:
        cluster.shutdown()


def write_much(file: BinaryIO, byte_count: int) -> None:
    for _ in range(byte_count // MIB):
        file.write(bytes(MIB))
