"""The benchmarks' pure parts, and every row's job on a local directory."""

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import idle
from benchmarks.__main__ import resumed
from benchmarks.bars import (
    BARS,
    LAZY,
    LIBRADOS,
    ONE_READ,
    ONE_WRITE,
    OWN,
    REQUEST_CPU,
    ROUND_TRIPS,
    Bar,
    Verdict,
)
from benchmarks.content import MIB, checksum, content, share_of, shuffled_pages
from benchmarks.driver import Args
from benchmarks.listing import FEW_COUNT, names_of
from benchmarks.listing_report import FIGURES, ListingResult, percentile
from benchmarks.listing_report import report as listing_report
from benchmarks.measure import run_job
from benchmarks.past import DirectoryPast, VerifyError, expect_files
from benchmarks.peers.limit import bench_result
from benchmarks.peers.s3fs import bucket_of
from benchmarks.plot import draw
from benchmarks.processes import PeerError, cpu_clock_s, kernel_s
from benchmarks.programs import Sources, program_rows
from benchmarks.reader import reading
from benchmarks.report import NOTHING, report, rounded
from benchmarks.result import BASE_PEER, Column, Result, Sample, Spread
from benchmarks.rows import Row
from benchmarks.runner import rotated
from benchmarks.workloads import FULL, QUICK, Scale, rows_of

TINY = Scale(1 * MIB, 16, 8, 5, 3, 4, 3, 7, 10, 3)
SEED = "seed"


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, Row]]:
    with Sources(TINY, SEED) as sources:
        made = [*rows_of(TINY, SEED), *program_rows(TINY, sources)]
        assert len({row.key for row in made}) == len(made)
        yield {row.key: row for row in made}


class LocalPlace:
    """A plain directory as a peer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def driver(self, args: Args) -> tuple[list[str], Args]:
        return [sys.executable, "-m", "benchmarks.jobs"], {
            **args,
            "directory": str(self._directory),
        }

    def cpu_s(self) -> float:
        return 0.0

    def kernel_s(self) -> float:
        return 0.0

    def replies(self) -> int:
        return 0

    def settle(self) -> None:
        return


ROW_KEYS = [row.key for row in rows_of(TINY, SEED)] + ["tar", "rsync", "rsync-again", "cp-4"]


@pytest.mark.parametrize("key", ROW_KEYS)
def test_each_row_leaves_what_it_verifies(key: str, rows: dict[str, Row], tmp_path: Path) -> None:
    """On a file system that is right, every job runs and every row's check passes."""
    row, past, place = rows[key], DirectoryPast(tmp_path), LocalPlace(tmp_path)
    past.put(row.files.make())
    if row.before:
        run_job(place, row.before)
    outcome = run_job(place, row.job)
    assert outcome["seconds"] > 0
    row.verify(past, outcome["answer"])


@pytest.mark.parametrize("key", ["write", "overwrite", "create-1", "append", "replace", "cp-4"])
def test_a_changed_byte_fails_the_row(key: str, rows: dict[str, Row], tmp_path: Path) -> None:
    """The check past the mount sees one wrong byte."""
    row, past, place = rows[key], DirectoryPast(tmp_path), LocalPlace(tmp_path)
    past.put(row.files.make())
    outcome = run_job(place, row.job)
    victim = sorted(tmp_path.iterdir())[0]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(VerifyError):
        row.verify(past, outcome["answer"])


@pytest.mark.parametrize("key", ["read-cold", "random-8", "small-1", "xattr-get", "ls-l"])
def test_a_wrong_answer_fails_the_row(key: str, rows: dict[str, Row], tmp_path: Path) -> None:
    """What the driver read or counted must be right too."""
    with pytest.raises(VerifyError):
        rows[key].verify(DirectoryPast(tmp_path), 1)


def test_a_failing_job_says_why(tmp_path: Path) -> None:
    args = {"job": "read", "name": "missing", "size": 1}
    with pytest.raises(PeerError, match="FileNotFoundError"):
        run_job(LocalPlace(tmp_path), args)


def test_missing_and_extra_files_are_seen(tmp_path: Path) -> None:
    past = DirectoryPast(tmp_path)
    past.put({"a": b"1"})
    expect_files(past, {"a": b"1"})
    with pytest.raises(VerifyError, match="missing"):
        expect_files(past, {"a": b"1", "b": b"2"})
    with pytest.raises(VerifyError, match="extra"):
        expect_files(past, {})


def test_every_bar_has_its_row(rows: dict[str, Row]) -> None:
    assert {bar.row for bar in BARS} <= rows.keys()


def test_full_and_quick_differ_in_size_only() -> None:
    assert [row.key for row in rows_of(QUICK, SEED)] == [row.key for row in rows_of(FULL, SEED)]


def test_pages_are_different_and_follow_from_the_seed() -> None:
    pages = shuffled_pages(SEED, 1 * MIB, 256)
    assert sorted(pages) == list(range(0, MIB, 4096))
    assert pages == shuffled_pages(SEED, 1 * MIB, 256) != sorted(pages)


def test_shares_of_workers_are_the_whole() -> None:
    """Whatever worker reads a piece, and whenever, the checksum is the same."""
    pieces = [content(SEED + str(index), 10) for index in range(20)]
    shares = [share_of(pieces, worker, 8) for worker in range(8)]
    assert sum(checksum(share) for share in shares) & 0xFFFFFFFF == checksum(pieces)


# Medians, ratios, bars


def sample(row: str, peer: str, value: float, turn: int = 0, **more: float) -> Sample:
    return Sample(
        row=row,
        peer=peer,
        turn=turn,
        value=value,
        seconds=100 / value,
        operation_count=100,
        client_cpu_s=more.get("cpu_s", 0.01),
        driver_cpu_s=0.002,
        reply_count=int(more.get("replies", 0)),
    )


def result_of(*samples: Sample) -> Result:
    columns = [Column("write", "write it", "MiB/s"), Column("getattr", "fstat", "ops/s")]
    peers = [Column(OWN, "all"), Column(BASE_PEER, "less", early_rows=["write"]), Column(LAZY, "")]
    return Result({"seed": SEED}, columns, peers, list(samples))


def test_median_and_spread() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(median=3.0, low=1.0, high=10.0, count=3)


def test_ratio_is_of_medians_and_ignores_failures() -> None:
    result = result_of(
        sample("write", OWN, 20),
        sample("write", OWN, 30, turn=1),
        sample("write", OWN, 90, turn=2),
        sample("write", BASE_PEER, 10),
        Sample(row="write", peer=BASE_PEER, turn=1, failure="broken"),
    )
    assert result.ratio("write", OWN, BASE_PEER) == 3.0
    assert result.ratio("write", LAZY, BASE_PEER) is None
    assert result.failures("write", BASE_PEER) == ["broken"]
    assert result.cpu_us("write", OWN) == pytest.approx(100.0)


def test_cpu_a_request_needs_requests() -> None:
    """A peer whose requests the kernel answers has none to count."""
    served, cached = sample("getattr", OWN, 1, replies=200), sample("getattr", LAZY, 1, replies=3)
    result = result_of(served, cached)
    assert result.request_cpu_us("getattr", OWN) == pytest.approx(50.0)
    assert result.request_cpu_us("getattr", LAZY) is None


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar("write", BASE_PEER, 2.0), Verdict.MET),
        (Bar("write", BASE_PEER, 2.1), Verdict.NOT_MET),
        (Bar("write", BASE_PEER, 0.1, LAZY), Verdict.UNKNOWN),
        (Bar("getattr", REQUEST_CPU, 50.1), Verdict.MET),
        (Bar("getattr", REQUEST_CPU, 49.9), Verdict.NOT_MET),
    ],
)
def test_verdicts(bar: Bar, verdict: Verdict) -> None:
    result = result_of(
        sample("write", OWN, 20),
        sample("write", BASE_PEER, 10),
        sample("getattr", OWN, 10, replies=200),
    )
    assert bar.verdict(result) is verdict


def test_a_result_survives_its_file() -> None:
    result = result_of(sample("write", OWN, 20), sample("write", BASE_PEER, 10))
    assert Result.from_json(result.to_json()) == result


def test_a_resumed_result_says_so_and_counts_on() -> None:
    earlier = result_of(sample("write", OWN, 20, turn=1))
    now = replace(earlier, about={"date": "today", "radosmount": "1f"})
    again = resumed(resumed(earlier, now), now)
    assert again.turn_count == 2
    assert again.about == {"seed": SEED, "resumed": "today with 1f; today with 1f"}
    with pytest.raises(SystemExit, match="not all"):
        resumed(earlier, replace(now, rows=[Column("b", "row b")]))


def test_report_shows_rates_ratios_failures_and_what_is_not_promised() -> None:
    text = report(
        result_of(
            sample("write", OWN, 2000),
            sample("write", OWN, 3000, turn=1),
            sample("write", BASE_PEER, 1000),
            Sample(row="write", peer=LAZY, turn=0, failure="slower than 7 MiB/s (stopped)"),
        )
    )
    lines = text.splitlines()
    assert "| write it, MiB/s | 2,500 <sub>2,000..3,000</sub> | 1,000 † | < 7 |" in lines
    met = f"| write it | radosmount | 1.2 of ceph-fuse | 2.50 | met | {NOTHING} |  |"
    assert met in lines
    assert f"| write it, MiB/s | 2.50 | {NOTHING} |" in lines
    assert "- write it, radosmount lazy: 1 of 1 turns: slower than 7 MiB/s (stopped)" in lines
    assert "1 of 1 bars are met" in text


def test_what_round_trips_alone_would_allow() -> None:
    """A read of 250 µs and four writes of 1 ms, where ceph-fuse takes 5 ms."""
    limits = [sample("random-1", LIBRADOS, 4000), sample("xattr-set", LIBRADOS, 1000)]
    bar = Bar("replace", BASE_PEER, 1.3)
    result = result_of(*limits, sample("replace", BASE_PEER, 200), sample("replace", OWN, 150))
    assert bar.ceiling(result) == pytest.approx(5000 / (250 + 4 * 1000))
    assert bar.ceiling(result_of(*limits)) is None
    assert Bar("read-cold", BASE_PEER, 1.6).ceiling(result) is None
    keys = {row.key for row in rows_of(TINY, SEED)}
    assert {row for row, _ in ROUND_TRIPS} | {ONE_READ, ONE_WRITE} <= keys


def test_report_shows_where_the_time_goes() -> None:
    """Of a row under its bar, and of who it is compared with; the servers' CPU counts, too."""
    own = replace(sample("write", OWN, 100), server_cpu_s=1.4, client_kernel_s=0.007)
    text = report(result_of(own, sample("write", BASE_PEER, 1000)))
    lines = text.splitlines()
    assert "| write it | radosmount | 10,000 | 100 | 70.0 | 20.0 | 14,000 | 1.41 |" in lines
    assert (
        f"| write it | ceph-fuse | 1,000 | 100 | {NOTHING} | 20.0 | {NOTHING} | {NOTHING} |" in text
    )
    assert "| write it | radosmount | 10," not in report(result_of(own))


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (99.96, "100.0"), (12.34, "12.3"), (0.128, "0.13")]
)
def test_rounded(value: float, text: str) -> None:
    assert rounded(value) == text


# What is read from others


def test_rados_bench_is_read() -> None:
    output = "Total time run:         3.5\nTotal reads made:     469\nRead size: 4096\n"
    assert bench_result(output) == (469, 3.5)
    with pytest.raises(PeerError):
        bench_result("error: no such pool")


def test_only_what_is_just_read_is_shared() -> None:
    assert bucket_of("set-big", "s3fs") == bucket_of("set-big", "rclone")
    assert bucket_of("work", "s3fs") != bucket_of("work", "rclone")


def test_cpu_clock_is_of_the_process_asked() -> None:
    assert cpu_clock_s(os.getpid()) == pytest.approx(time.process_time(), abs=0.2)


def test_each_turn_begins_with_another_peer() -> None:
    assert {rotated([1, 2, 3], turn)[0] for turn in range(3)} == {1, 2, 3}


def test_plot_is_drawn(tmp_path: Path) -> None:
    draw(result_of(sample("write", OWN, 20), sample("write", BASE_PEER, 10)), tmp_path / "p.svg")
    assert "ceph-fuse" in (tmp_path / "p.svg").read_text()


# Listing at scale


def listing_result(**samples: list[float]) -> ListingResult:
    result = ListingResult({"machine": "this one"}, 20_000)
    for key, values in samples.items():
        for value in values:
            result.add(key, value)
    return result


def test_a_listing_is_of_so_many_different_names() -> None:
    names = list(names_of(20_000))
    assert len(names) == len(set(names)) == 20_000
    assert sum(name.startswith("few/") for name in names) == FEW_COUNT
    assert sum(name.startswith("many/") for name in names) == 2_000


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("flat", 2.0, Verdict.MET),
        ("flat", 2.1, Verdict.NOT_MET),
        ("many", 10_000.0, Verdict.MET),
        ("many", 9_999.0, Verdict.NOT_MET),
    ],
)
def test_a_listing_is_held_to_its_bars(key: str, value: float, verdict: Verdict) -> None:
    figure = FIGURES[key]
    assert figure.verdict(listing_result(**{key: [value]}).spread(key)) == verdict.value
    assert figure.verdict(None) == Verdict.UNKNOWN.value
    assert FIGURES["rados"].verdict(None) == ""


def test_the_report_of_a_listing_shows_medians_bars_and_the_machine() -> None:
    result = listing_result(flat=[1.5, 3.0, 1.0], many=[9_000.0], rados=[250_000.0])
    text = listing_report(ListingResult.from_json(result.to_json()))
    lines = text.splitlines()
    assert "# Listing 20,000 names" in lines
    assert "1 of 2 bars are met" in text
    shown = "| `ls -f` of all, names=flat | at most 2 | 1.50 <sub>1.00..3.00</sub>"
    assert f"{shown} | times rados ls | met |" in lines
    shown = "| `ls -l` of a tenth of all | at least 10,000 | 9,000 | names/s"
    assert f"{shown} | **not met** |" in lines
    assert "| `rados ls` of all |  | 250,000 | names/s |  |" in lines
    assert "- machine: this one" in lines


@pytest.mark.parametrize(
    ("count", "percent", "value"), [(1, 99, 0), (100, 99, 98), (200, 99, 197), (101, 50, 50)]
)
def test_percentile(count: int, percent: int, value: float) -> None:
    assert percentile(list(range(count))[::-1], percent) == value


def test_files_are_read_meanwhile(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"file-{number:05d}").write_bytes(bytes(10))
    with reading(tmp_path, 3, 10) as durations_s:
        time.sleep(0.05)
    assert durations_s
    assert all(0 < seconds < 1 for seconds in durations_s)
    with pytest.raises(PeerError), reading(tmp_path, 3, 11):
        pass


def test_what_waiting_costs_is_told() -> None:
    """The machine's part of small operations: the calls of a create, in a loop and after sleeps."""
    text = idle.about()
    assert re.search(r": \d+ µs in a loop, \d+ µs after 1 ms of sleep before each;", text)
    assert (idle.wake_up_us() is None) == (len(os.sched_getaffinity(0)) < 2)


def test_the_kernels_share_is_part_of_the_cpu() -> None:
    deadline_s = cpu_clock_s(os.getpid()) + 0.2
    before_s = kernel_s(os.getpid())
    while cpu_clock_s(os.getpid()) < deadline_s:
        os.listdir("/proc/self/fd")
    assert 0 < kernel_s(os.getpid()) - before_s < 0.3
