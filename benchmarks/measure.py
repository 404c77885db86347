"""Runs one driver, and takes what it cost: time, CPU of the client, what the servers did."""

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Callable
from typing import Any, Final

from benchmarks.driver import Args
from benchmarks.osds import ServerUse
from benchmarks.peers.interface import ROOT, Place
from benchmarks.processes import PeerError

JOB_TIMEOUT_S: Final = 120.0
COMPLAINT_LINES: Final = 3
UseOfServers = Callable[[], ServerUse]


class TooSlow(Exception):
    """The job was stopped after JOB_TIMEOUT_S."""


def no_servers() -> ServerUse:
    return ServerUse()


def run_job(place: Place, job: Args, servers: UseOfServers = no_servers) -> dict[str, Any]:
    """Run the driver once. Raises: PeerError when it fails, TooSlow."""
    command, args = place.driver(job)
    driver = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        start_new_session=True,
    )
    try:
        return report_of(driver, place, args, servers)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)  # with its workers and programs
        driver.communicate()


def report_of(
    driver: "subprocess.Popen[str]", place: Place, args: Args, servers: UseOfServers
) -> dict[str, Any]:
    """What the driver says, with what the client and the servers did for it meanwhile."""
    assert driver.stdin
    assert driver.stdout
    driver.stdin.write(json.dumps(args) + "\n")
    driver.stdin.flush()
    if not select.select([driver.stdout], [], [], JOB_TIMEOUT_S)[0]:
        raise TooSlow
    if driver.stdout.readline() != "ready\n":
        raise PeerError(complaint_of(driver, driver.communicate(timeout=10)[1]))
    before, replies = servers(), place.replies()
    cpu_s, kernel_s = place.cpu_s(), place.kernel_s()
    try:
        output, errors = driver.communicate("go\n", timeout=JOB_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise TooSlow from None
    used_s, kernel_used_s = place.cpu_s() - cpu_s, place.kernel_s() - kernel_s
    replied = place.replies() - replies
    did = servers().since(before)
    if driver.returncode:
        raise PeerError(complaint_of(driver, errors))
    report: dict[str, Any] = json.loads(output)
    return {
        **report,
        "client_cpu_s": used_s,
        "client_kernel_s": kernel_used_s,
        "replies": replied,
        "reads": did.reads,
        "writes": did.writes,
        "server_cpu_s": did.cpu_s,
    }


def complaint_of(driver: "subprocess.Popen[str]", errors: str) -> str:
    """The ends of what the driver, or a program of its, said on stderr."""
    lines = errors.splitlines()[-COMPLAINT_LINES:]
    return " / ".join(lines) or f"the driver ended with {driver.returncode}"
