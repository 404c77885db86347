"""Restoring what a mount has put into its spool, by the command that its log tells."""

import re
import shlex
import subprocess
import sys
from typing import Final

from tests.mount.calls import eventually
from tests.mount.mounting import Mount

COMMAND: Final = re.compile(r"to write them: radosmount (restore .*)")


def restore_words(mount: Mount) -> list[str]:
    """The last command that the log tells, without the program's name."""
    eventually(lambda: COMMAND.search(mount.log()) is not None)
    words: list[str] = shlex.split(COMMAND.findall(mount.log())[-1])
    return words


def restored(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "radosmount", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)
