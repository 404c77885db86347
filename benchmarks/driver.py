"""The process that makes the system calls of one row: the same for every peer, and cheap.

    python -m benchmarks.jobs      (standard input: the job in one line of JSON; a line to go)

It prepares, says "ready", waits for a line, runs, and prints one line of JSON: seconds, its own
CPU, a checksum of what it read. `benchmarks.limits` speaks the same protocol for librados.

Several workers are processes, not threads: Python's lock would be measured otherwise. They
inherit what was opened before, as threads would.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from benchmarks.content import checksum

Args = dict[str, Any]


class Job(Protocol):
    """One workload. `run` alone is timed."""

    def start(self) -> None:
        """Prepare what must be made in the worker itself, as a connection."""
        ...

    def run(self, worker: int) -> None: ...

    def answer(self) -> int:
        """A checksum of what `run` read, or a count; taken after the clock has stopped."""
        ...


class Ready:
    """A job that needs nothing of its own in a worker."""

    def start(self) -> None:
        return


class Reads(Ready):
    """Keeps what was read until the clock has stopped."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def answer(self) -> int:
        return checksum(self.pieces)


def cpu_s() -> float:
    """User and system CPU seconds of this process and of the children it waited for."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def run_alone(job: Job) -> dict[str, Any]:
    job.start()
    wait_for_go()
    began_cpu_s, began_s = cpu_s(), time.perf_counter()
    job.run(0)
    seconds = time.perf_counter() - began_s
    return {"seconds": seconds, "cpu_s": cpu_s() - began_cpu_s, "answer": job.answer()}


def run_together(job: Job, workers: int) -> dict[str, Any]:
    """Fork the workers, let them go at once, stop the clock when the last one is done."""
    gate_out, gate_in = os.pipe()
    done_out, done_in = os.pipe()
    answers = [start_worker(job, worker, gate_out, gate_in, done_in) for worker in range(workers)]
    os.close(done_in)
    wait_for_all(done_out, workers)
    wait_for_go()
    began_s = time.perf_counter()
    os.write(gate_in, b"g" * workers)
    wait_for_all(done_out, workers)
    seconds = time.perf_counter() - began_s
    reports = [json.loads(os.fdopen(answer).read()) for answer in answers]
    return {
        "seconds": seconds,
        "cpu_s": sum(report["cpu_s"] for report in reports),
        "answer": sum(report["answer"] for report in reports) & 0xFFFFFFFF,
    }


def start_worker(job: Job, worker: int, gate_out: int, gate_in: int, done_in: int) -> int:
    """Fork one; return the descriptor from which its report comes."""
    report_out, report_in = os.pipe()
    if os.fork():
        os.close(report_in)
        return report_out
    try:
        os.close(gate_in)
        job.start()
        os.write(done_in, b".")
        os.read(gate_out, 1)
        began_cpu_s = cpu_s()
        job.run(worker)
        used_cpu_s = cpu_s() - began_cpu_s
        os.write(done_in, b".")
        report = {"cpu_s": used_cpu_s, "answer": job.answer()}
        os.write(report_in, json.dumps(report).encode())
    except BaseException as failure:
        print(f"worker {worker}: {failure!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def wait_for_all(done_out: int, workers: int) -> None:
    """Each worker writes one byte when it stands ready, and one when it is done."""
    for _ in range(workers):
        if not os.read(done_out, 1):
            raise SystemExit("a worker failed")


def wait_for_go() -> None:
    print("ready", flush=True)
    if not sys.stdin.readline():
        raise SystemExit("nobody said go")


Maker = Callable[[Args], Job]


def serve(makers: Mapping[str, Maker]) -> None:
    """Read the job, run it, print the report."""
    args: Args = json.loads(sys.stdin.readline())
    job = makers[args.pop("job")](args)
    workers = args.get("workers", 1)
    report = run_alone(job) if workers == 1 else run_together(job, workers)
    print(json.dumps(report), flush=True)
