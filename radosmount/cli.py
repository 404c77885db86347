"""The command line: argv, as typed or as mount(8) builds it, to a Config, and exit codes.

Imports neither trio nor rados nor pyfuse3: the daemon forks before they are there.

Exit codes as of mount(8): 0 done, 1 wrong use (or, in the foreground, not all could be written),
8 interrupted, 32 the mount or unmount failed, or not all could be restored.
"""

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Final

from radosmount.config import CacheConfig, Config, ViewConfig
from radosmount.configure import (
    CEPH_WORDS,
    configure,
    default_spool_directory,
    is_ceph_option,
    with_absolute_paths,
)
from radosmount.errors import MountError, UsageError
from radosmount.logs import configure_logging
from radosmount.options import OPTIONS, split_options

EXIT_OK: Final = 0
EXIT_USAGE: Final = 1
EXIT_INTERRUPTED: Final = 8
EXIT_FAILED: Final = 32

FLAGS: Final = {
    "-f": "foreground", "--foreground": "foreground", "-d": "debug", "--debug": "debug",
    "-h": "help", "--help": "help", "-V": "version", "--version": "version",
}  # fmt: skip

# Of `radosmount restore`, beside Ceph's own.
RESTORE_FLAGS: Final = {
    "--force": "force", "--keep": "keep", "-h": "help", "--help": "help",
}  # fmt: skip
RESTORE_VALUES: Final = {"--as": "as"}

USAGE: Final = """\
usage: radosmount [options] SOURCE MOUNTPOINT [-o OPTION,OPTION=VALUE,...]
       radosmount umount [-l] MOUNTPOINT
       radosmount restore [--force] [--as NAME] [--keep] FILE...

Shows RADOS pools as directories and RADOS objects as files.

SOURCE is [ID@][CLUSTER]:[POOL[/NAMESPACE]]
  ceph:                    every pool is a directory
  webapp@ceph:assets       the pool assets, as the Ceph user client.webapp
  webapp@ceph:assets/eu    one namespace of it

  -f, --foreground         do not go to the background; log to stderr
  -d, --debug              the same, and log more
  -c, --conf FILE          Ceph's configuration file, as -o conf=
  -n, --name NAME          Ceph user in full, as -o name=
  -i, --id ID              Ceph user without "client.", as -o id=
  -k, --keyring FILE       keyring of that user, as -o keyring=
  -m HOSTS                 monitors, as -o mon_host=
      --cluster NAME       cluster name, as -o cluster=
      --KEY VALUE          any other Ceph option, as --rados_osd_op_timeout 10
  -h, --help               show this
  -V, --version            show the version

"""


RESTORE_USAGE: Final = """\
usage: radosmount restore [options] FILE...

Writes back what could not be stored: FILE is from the spool, as the log has named it.
An object that was changed since then is left alone. A FILE that was written is removed.

      --force              overwrite what others have written
      --as NAME            make another object of it, if FILE has a whole one
      --keep               do not remove FILE
  -c, --conf; -n, --name; -i, --id; -k, --keyring; -m; --cluster; -o; --KEY VALUE
                           as for a mount
"""


@dataclass(slots=True)
class CommandLine:
    """The words of a command line, sorted. `items` are of -o; -c, -n, ... are among them."""

    operands: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    ceph_options: list[tuple[str, str]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)
    known_flags: Mapping[str, str] = field(default_factory=lambda: FLAGS)
    known_values: Mapping[str, str] = field(default_factory=dict)


def sort_words(words: Sequence[str], line: CommandLine | None = None) -> CommandLine:
    """Options may stand anywhere; `--` ends them. `line` knows which there are beside Ceph's; by
    default those of a mount. Raises: UsageError."""
    line = line or CommandLine()
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word == "--":
            line.operands.extend(rest)
            break
        if not word.startswith("-") or word == "-":
            line.operands.append(word)
        elif word.startswith("--"):
            take_long(line, word, rest)
        else:
            take_short(line, word, rest)
    return line


def take_short(line: CommandLine, word: str, rest: deque[str]) -> None:
    """`-f`, `-fd`, `-o ro`, `-oro`."""
    for index, letter in enumerate(word[1:], start=1):
        option = "-" + letter
        if option in line.known_flags:
            line.flags.add(line.known_flags[option])
            continue
        if option == "-o":
            line.items += split_options(value_of(option, word[index + 1 :], rest))
        elif option in CEPH_WORDS:
            value = value_of(option, word[index + 1 :], rest)
            line.items.append(f"{CEPH_WORDS[option]}={value}")
        else:
            raise UsageError(f"unknown option {option} (radosmount --help lists them)")
        return


def take_long(line: CommandLine, word: str, rest: deque[str]) -> None:
    """`--debug`, `--conf FILE`, `--conf=FILE`, `--rados_osd_op_timeout 10`."""
    option, _, value = word.partition("=")
    if word in line.known_flags:
        line.flags.add(line.known_flags[word])
    elif option in line.known_values:
        line.values[line.known_values[option]] = value_of(option, value, rest)
    elif option in CEPH_WORDS:
        line.items.append(f"{CEPH_WORDS[option]}={value_of(option, value, rest)}")
    elif is_ceph_option(option[2:]):
        key = option[2:].replace("-", "_")
        line.ceph_options.append((key, value_of(option, value, rest)))
    else:
        raise UsageError(f"unknown option {option} (radosmount --help lists them)")


def value_of(option: str, attached: str, rest: deque[str]) -> str:
    if attached:
        return attached
    if not rest:
        raise UsageError(f"option {option} needs a value")
    return rest.popleft()


def parse_mount(
    line: CommandLine, environment: Mapping[str, str], directory: str, uid: int, gid: int
) -> Config:
    """The Config of `radosmount SOURCE MOUNTPOINT`. Pure. Raises: UsageError."""
    if len(line.operands) != 2:
        missing = ("SOURCE and MOUNTPOINT are", "MOUNTPOINT is")[min(len(line.operands), 1)]
        problem = f"{missing} missing" if len(line.operands) < 2 else "too many words"
        raise UsageError(f"{problem}: radosmount [options] SOURCE MOUNTPOINT (see --help)")
    source, mountpoint = line.operands
    is_debug = "debug" in line.flags
    base = Config(
        cache=CacheConfig(spool_directory=default_spool_directory(uid, environment)),
        view=ViewConfig(uid=uid, gid=gid),
        is_foreground=is_debug or "foreground" in line.flags,
        is_debug=is_debug,
    )
    base = replace(base, fuse=replace(base.fuse, mountpoint=mountpoint))
    config = configure(base, source, line.items, line.ceph_options, environment)
    return with_absolute_paths(config, directory)


def help_text() -> str:
    rows = [f"  {option.usage:<25}{option.meaning.replace('`', '')}" for option in OPTIONS]
    for index, option in enumerate(OPTIONS):
        if option.default_text:
            rows[index] += f" [{option.default_text}]"
    return USAGE + "-o options [default]:\n" + "\n".join(rows) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return run(words)
    except UsageError as failure:
        return complain(failure, EXIT_USAGE)
    except MountError as failure:
        return complain(failure, EXIT_FAILED)
    except KeyboardInterrupt:
        return complain("interrupted", EXIT_INTERRUPTED)


def run(words: Sequence[str]) -> int:
    match words:
        case ["umount", *rest]:
            return run_umount(rest)
        case ["restore", *rest]:
            return run_restore(rest)
    return run_mount(words)


def complain(problem: object, exit_code: int) -> int:
    text = " ".join(str(problem).split())  # one line, whatever a lower layer said
    print(f"radosmount: {text}", file=sys.stderr)
    return exit_code


def run_umount(words: Sequence[str]) -> int:
    from radosmount.unmount import unmount

    operands = [word for word in words if not word.startswith("-")]
    flags = {word for word in words if word.startswith("-")}
    if flags & {"-h", "--help"}:
        print(USAGE, end="")
        return EXIT_OK
    if unknown := flags - {"-l", "--lazy"}:
        option = min(unknown).partition("=")[0]
        raise UsageError(f"unknown option {option}: radosmount umount [-l] MOUNTPOINT")
    if len(operands) != 1:
        raise UsageError("give one mount point: radosmount umount [-l] MOUNTPOINT")
    unmount(operands[0], is_lazy=bool(flags))
    return EXIT_OK


def run_restore(words: Sequence[str]) -> int:
    line = CommandLine(known_flags=RESTORE_FLAGS, known_values=RESTORE_VALUES)
    sort_words(words, line)
    if "help" in line.flags:
        print(RESTORE_USAGE, end="")
        return EXIT_OK
    if not line.operands:
        raise UsageError("FILE is missing: radosmount restore [options] FILE... (see --help)")
    if "as" in line.values and len(line.operands) > 1:
        raise UsageError("--as makes one object: give one FILE")
    config = configure(Config(), ":", line.items, line.ceph_options, os.environ)
    from radosmount.restore import Manner, restore

    name = os.fsencode(line.values["as"]) if "as" in line.values else None
    manner = Manner("force" in line.flags, "keep" in line.flags, name)
    failures = restore(config.store, line.operands, manner)
    for failure in failures:
        complain(failure, EXIT_FAILED)
    return leave(EXIT_FAILED if failures else EXIT_OK)


def run_mount(words: Sequence[str]) -> int:
    line = sort_words(words)
    if "help" in line.flags:
        print(help_text(), end="")
        return EXIT_OK
    if "version" in line.flags:
        print("radosmount", metadata.version("radosmount"))
        return EXIT_OK
    config = parse_mount(line, os.environ, os.getcwd(), os.getuid(), os.getgid())
    return mount(config)


def mount(config: Config) -> int:
    """Mount in the foreground, or return as soon as a daemon has. Raises: MountError."""
    from radosmount.mountpoint import check_outside, prepare_mountpoint

    prepare_mountpoint(config.fuse.mountpoint)
    check_outside("log_file", config.process.log_path, config.fuse.mountpoint)
    check_outside("spool", config.cache.spool_directory, config.fuse.mountpoint)
    if config.is_foreground:
        return leave(serve(config, lambda: None))
    from radosmount.daemon import daemonize

    limit_s = config.store.connect_timeout_s + config.process.ready_margin_s
    daemonize(lambda announce: serve(config, announce), limit_s)
    return EXIT_OK


def serve(config: Config, announce_ready: Callable[[], None]) -> int:
    """Runs in the process that stays. Raises: MountError before the mount is ready."""
    configure_logging(config)
    from radosmount.app import run

    return run(config, announce_ready)


def leave(exit_code: int) -> int:
    """A store thread that hangs in librados must not keep the process, nor its exit crash."""
    if threading.active_count() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code
