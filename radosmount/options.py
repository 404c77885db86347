"""The `-o` options: their one table, and how each is read.

`OPTIONS` is what the parser, --help and the man page's table come from. Pure. What several
settings together make is configure.py's.
"""

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_args

from radosmount.config import CacheConfig, Config, ConflictMode, Driver, FlushMode, NamesMode
from radosmount.errors import UsageError

Settings = dict[str, object]  # "section.field" of a Config: its value


class Kind(NamedTuple):
    """How one sort of value is read and shown. `parse` raises ValueError in plain words."""

    parse: Callable[[str], object]
    show: Callable[[Any], str] = str


def parse_size(text: str) -> int:
    """Bytes, as `4096`, `64K`, `256M` or `1G` (powers of 1024; `MiB` is `M`)."""
    match = re.fullmatch(r"(\d+)([KMGT]?)(?:iB|B)?", text, re.IGNORECASE)
    if not match:
        raise ValueError("not a size such as 64K, 256M or 1G")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


def show_size(size: int) -> str:
    for shift, suffix in ((30, "G"), (20, "M"), (10, "K")):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{suffix}"
    return str(size)


def parse_seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        raise ValueError("not a number of seconds") from None
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError("must be more than 0 seconds")
    return seconds


def parse_mode(text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError("not an octal mode such as 644 (at most 777)")
    return int(text, 8)


def parse_owner(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32 - 1:
        raise ValueError("not a number (see id -u and id -g)")
    return int(text)


def parse_text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def parse_id(text: str) -> str:
    """`webapp`, or the full name `client.webapp`, is the Ceph user client.webapp."""
    return "client." + parse_text(text).removeprefix("client.")


def parse_name(text: str) -> str:
    if not re.fullmatch(r"client\.[^ ]+", text):
        raise ValueError("not a name such as client.webapp")
    return text


def parse_cluster(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text):
        raise ValueError("not a cluster name such as ceph")
    return text


def parse_pools(text: str) -> frozenset[bytes]:
    return frozenset(os.fsencode(name) for name in text.split(":") if name)


def parse_driver(text: str) -> str:
    if text not in get_args(Driver):
        raise ValueError("must be one of " + ", ".join(get_args(Driver)))
    return text


def choice(values: Iterable[FlushMode | ConflictMode | NamesMode]) -> Kind:
    by_name = {member.value: member for member in values}

    def parse(text: str) -> object:
        if text not in by_name:
            raise ValueError("must be one of " + ", ".join(by_name))
        return by_name[text]

    return Kind(parse, lambda member: str(member.value))


SIZE: Final = Kind(parse_size, show_size)
SECONDS: Final = Kind(parse_seconds, lambda seconds: f"{seconds:g}")
MODE: Final = Kind(parse_mode, lambda mode: f"{mode:o}")
OWNER: Final = Kind(parse_owner)
TEXT: Final = Kind(parse_text)


@dataclass(frozen=True, slots=True)
class Option:
    """One `-o` option. A flag has no `kind` and sets `constant`."""

    name: str
    metavar: str
    meaning: str
    fields: tuple[str, ...]
    kind: Kind | None = None
    constant: object = True
    default: str | None = None  # where it is not simply what the first of `fields` holds

    def settings(self, value: str | None) -> Settings:
        """What `name` or `name=value` sets. Raises: UsageError."""
        if self.kind is None:
            if value is not None:
                raise UsageError(f"option {self.name} takes no value")
            return dict.fromkeys(self.fields, self.constant)
        if value is None:
            raise UsageError(f"option {self.name} needs a value: {self.name}={self.metavar}")
        try:
            return dict.fromkeys(self.fields, self.kind.parse(value))
        except ValueError as problem:
            raise UsageError(f"option {self.name}={value}: {problem}") from None

    @property
    def usage(self) -> str:
        return f"{self.name}={self.metavar}" if self.kind else self.name

    @property
    def default_text(self) -> str:
        if self.default is not None or self.kind is None:
            return self.default or ""
        section, _, field = self.fields[0].partition(".")
        value = getattr(getattr(Config(), section), field)
        return "" if value is None else self.kind.show(value)


TIMEOUT_FIELDS: Final = tuple(f"{name}.timeout_s" for name in ("store", "cache", "view"))
POSIX_FIELDS: Final = tuple(f"{name}.has_posix" for name in ("store", "cache", "view", "fuse"))

OPTIONS: Final = (
    Option("conf", "FILE", "Ceph's configuration file", ("store.conf_path",), TEXT,
           default="/etc/ceph/CLUSTER.conf"),
    Option("id", "ID", "Ceph user, without `client.`", ("store.client_name",), Kind(parse_id),
           default="admin"),
    Option("name", "NAME", "Ceph user, in full", ("store.client_name",), Kind(parse_name)),
    Option("cluster", "NAME", "cluster name", ("store.cluster",), Kind(parse_cluster)),
    Option("keyring", "FILE", "keyring of that user", ("store.keyring_path",), TEXT,
           default="as Ceph's configuration says"),
    Option("mon_host", "HOSTS", "monitors, separated by `;`", ("store.monitor_hosts",), TEXT,
           default="as Ceph's configuration says"),
    Option("connect_timeout", "SECONDS", "give up connecting after", ("store.connect_timeout_s",),
           SECONDS),
    Option("timeout", "SECONDS", "a call fails when nothing is acknowledged for", TIMEOUT_FIELDS,
           SECONDS),
    Option("cache_size", "SIZE", "memory for bytes on their way to and from RADOS",
           ("cache.size_bytes",), SIZE),
    Option("atomic_max", "SIZE", "files up to this size are stored in one operation",
           ("cache.atomic_max_bytes",), SIZE,
           default=f"{show_size(CacheConfig().atomic_max_bytes)}, at most a quarter of cache_size"),
    Option("flush", "WHEN", "bytes must be in RADOS at `close`, at fsync only (`lazy`), or at "
           "each write (`sync`)", ("cache.flush",), choice(FlushMode)),
    Option("sync", "", "the same as flush=sync", ("cache.flush",), constant=FlushMode.SYNC),
    Option("dirty_expire", "SECONDS", "with flush=lazy, write what is older than",
           ("cache.dirty_expire_s",), SECONDS),
    Option("conflict", "POLICY", "a flush onto an object that someone else changed: `fail` with "
           "ESTALE, or overwrite it (`last-writer`)", ("cache.conflict",), choice(ConflictMode)),
    Option("spool", "DIRECTORY", "keep here what can never be stored, for `radosmount restore`",
           ("cache.spool_directory",), TEXT,
           default="/var/lib/radosmount/spool; for others than root "
           "~/.local/state/radosmount/spool"),
    Option("ro", "", "read-only", ("view.is_read_only",)),
    Option("rw", "", "read-write", ("view.is_read_only",), constant=False),
    Option("rw_pools", "POOL:POOL", "pools of rbd, cephfs, rgw and mgr that may be written",
           ("view.writable_pools",), Kind(parse_pools), default=""),
    Option("names", "HOW", "`tree`: a `/` in a name makes directories; `flat`: it is escaped",
           ("view.names",), choice(NamesMode)),
    Option("uid", "NUMBER", "owner of everything", ("view.uid",), OWNER, default="who mounts"),
    Option("gid", "NUMBER", "group of everything", ("view.gid",), OWNER, default="who mounts"),
    Option("umask", "MODE", "bits that fmode (of 666) and dmode (of 777) do not have",
           ("view.umask",), Kind(parse_mode), default=""),
    Option("fmode", "MODE", "mode of files", ("view.file_mode",), MODE),
    Option("dmode", "MODE", "mode of directories", ("view.directory_mode",), MODE),
    Option("posix", "", "keep modes, owners, symbolic links and the mtime's nanoseconds, in the "
           "xattr `radosmount.posix`", POSIX_FIELDS),
    Option("strict_modes", "", "chmod and chown fail with EPERM, rather than do nothing",
           ("view.has_strict_modes",)),
    Option("allow_other", "", "other users may use the mount", ("fuse.allow_other",)),
    Option("stock_fuse", "", "serve by libfuse and pyfuse3, not by our own reading of /dev/fuse",
           ("fuse.is_tuned",), constant=False),
    Option("driver", "NAME", "call librados by our compiled module (`native`), by python3-rados "
           "(`binding`), or by the module where it is built (`auto`)", ("store.driver",),
           Kind(parse_driver)),
    Option("log_file", "FILE", "append log lines to this file", ("process.log_path",), TEXT,
           default="syslog; stderr with -f"),
)  # fmt: skip
BY_NAME: Final = {option.name: option for option in OPTIONS}

# What mount(8), fstab and systemd may say to any file system. Some kernel flags mean nothing
# here; nosuid and nodev are forced whatever is asked (mount.fuse3 adds dev,suid as root).
IGNORED: Final = frozenset((
    "defaults", "async", "atime", "diratime", "nodiratime", "relatime", "norelatime",
    "strictatime", "nostrictatime", "lazytime", "nolazytime", "iversion", "noiversion", "mand",
    "nomand", "silent", "loud", "dirsync", "exec", "dev", "nodev", "suid", "nosuid", "auto",
    "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
    "nonempty",
))  # fmt: skip
# To libfuse, as they are.
PASSED: Final = frozenset({"noatime", "noexec", "auto_unmount", "default_permissions"})
IGNORED_PREFIXES: Final = ("x-", "X-", "comment=", "user=", "helper=", "uhelper=")


def split_options(text: str) -> list[str]:
    r"""The items of one `-o` argument; `\,` is a comma within a value, as in libfuse."""
    items = re.split(r"(?<!\\),", text)
    return [item.replace(r"\,", ",") for item in items if item]


def parse_option(item: str) -> Settings:
    """What one item of -o sets; the key `fuse.options` collects what libfuse gets.

    Raises: UsageError.
    """
    name, has_value, value = item.partition("=")
    if item in PASSED:
        return {"fuse.options": frozenset({item})}
    if item in IGNORED or item.startswith(IGNORED_PREFIXES):
        return {}
    if name == "remount":
        raise UsageError("remount is not possible: unmount, then mount again")
    if name not in BY_NAME:
        raise UsageError(f"unknown option {name!r} (radosmount --help lists them)")
    return BY_NAME[name].settings(value if has_value else None)


def parse_options(items: Iterable[str]) -> Settings:
    settings: Settings = {}
    passed: frozenset[str] = frozenset()
    for item in items:
        parsed = parse_option(item)
        passed |= parsed.pop("fuse.options", frozenset())  # type: ignore[operator]
        settings |= parsed
    return settings | {"fuse.options": passed}
