"""The rows whose work is system calls of our own, at full or quick size.

What a row writes follows from the seed of the run, so that `verify` can tell every byte.
"""

import functools
from dataclasses import dataclass
from typing import Final

from benchmarks.content import MIB, PAGE_BYTES, checksum, content, file_names, shuffled_pages
from benchmarks.driver import Args
from benchmarks.rows import WORK, Files, FileSet, Row, Unit, expecting, holding, holding_xattrs

BIG: Final = "big"
STATE: Final = "state"
KEY: Final = "bench"  # of the xattr
WORKERS: Final = 8
LINE_BYTES: Final = 200
LISTED_BYTES: Final = 100
STATE_BYTES: Final = 4096


@dataclass(frozen=True)
class Scale:
    big_bytes: int
    page_count: int
    overwrite_count: int
    file_count: int
    xattr_count: int
    append_count: int
    replace_count: int
    many_count: int
    fstat_count: int
    tree_count: int  # at most so many files of the source tree


# So many that a request always waits: else a client that polls for the next one is measured.
STAT_WORKERS: Final = 4

FULL: Final = Scale(100 * MIB, 4000, 2000, 1000, 500, 300, 200, 20_000, 20_000, 10_000)
QUICK: Final = Scale(32 * MIB, 1000, 500, 200, 100, 60, 40, 2000, 4000, 150)


def small_files(seed: str, count: int, size: int = PAGE_BYTES) -> Files:
    return {name: content(seed + name, size) for name in file_names(count)}


def big_rows(scale: Scale, seed: str) -> list[Row]:
    """One large file, as a whole."""
    size = scale.big_bytes
    big = FileSet("set-big", lambda: {BIG: content(seed, size)})
    one: Args = {"name": BIG, "size": size, "seed": seed}
    whole = expecting(checksum([content(seed, size)]))
    return [
        Row(
            key="write",
            title=f"write {size // MIB} MiB, fsync",
            unit=Unit.BANDWIDTH,
            amount=size,
            job={"job": "write", **one},
            limit={"job": "write", **one},
            verify=holding(big.make),
            bench=("write", 4, 4 * MIB),
        ),
        Row(
            key="read-cold",
            title=f"read {size // MIB} MiB cold",
            unit=Unit.BANDWIDTH,
            amount=size,
            files=big,
            job={"job": "read", **one},
            limit={"job": "read", **one},
            verify=whole,
            bench=("seq", 4, 4 * MIB),
        ),
        Row(
            key="read-warm",
            title=f"read {size // MIB} MiB again",
            unit=Unit.BANDWIDTH,
            amount=size,
            files=big,
            job={"job": "read", **one},
            is_warm=True,
            verify=whole,
        ),
    ]


def page_rows(scale: Scale, seed: str) -> list[Row]:
    """Random pages of one large file."""
    size, count = scale.big_bytes, scale.page_count
    big = FileSet("set-big", lambda: {BIG: content(seed, size)})
    one: Args = {"name": BIG, "size": size, "seed": seed}

    def reads(workers: int) -> Row:
        data = content(seed, size)
        offsets = shuffled_pages(seed, size, count)
        job = {"job": "readpages", **one, "count": count, "workers": workers}
        return Row(
            key=f"random-{workers}",
            title=f"{count} random 4 KiB reads cold, {workers} at once",
            amount=count,
            files=big,
            job=job,
            limit=job,
            verify=expecting(checksum(data[at : at + PAGE_BYTES] for at in offsets)),
            bench=("rand", workers, PAGE_BYTES),
        )

    def overwritten() -> Files:
        data, page = bytearray(content(seed, size)), content(seed, PAGE_BYTES)
        for at in shuffled_pages(seed, size, scale.overwrite_count):
            data[at : at + PAGE_BYTES] = page
        return {BIG: bytes(data)}

    job = {"job": "overwrite", **one, "count": scale.overwrite_count}
    overwrite = Row(
        key="overwrite",
        title=f"{scale.overwrite_count} random 4 KiB overwrites, fsync",
        amount=scale.overwrite_count,
        files=FileSet(WORK, big.make),
        job=job,
        limit=job,
        verify=holding(overwritten),
    )
    return [reads(1), reads(WORKERS), overwrite]


def small_rows(scale: Scale, seed: str) -> list[Row]:
    """Many small files: made, read, removed."""
    count = scale.file_count
    args: Args = {"count": count, "size": PAGE_BYTES, "seed": seed}
    files = FileSet("set-small", lambda: small_files(seed, count))

    def creates(workers: int) -> Row:
        job = {"job": "create", **args, "workers": workers}
        return Row(
            key=f"create-{workers}",
            title=f"create {count} files of 4 KiB, {workers} at once",
            amount=count,
            job=job,
            limit=job,
            verify=holding(files.make),
        )

    def reads(workers: int) -> Row:
        job = {"job": "readsmall", **args, "workers": workers}
        return Row(
            key=f"small-{workers}",
            title=f"read {count} files of 4 KiB cold, {workers} at once",
            amount=count,
            files=files,
            job=job,
            limit=job,
            verify=expecting(checksum(files.make().values())),
        )

    unlink = Row(
        key="unlink",
        title=f"unlink {count} files just listed",
        amount=count,
        files=FileSet(WORK, files.make),
        job={"job": "unlink", **args, "seen": True},
        limit={"job": "unlink", **args},
        verify=holding(dict),
    )
    return [creates(1), creates(WORKERS), reads(1), reads(WORKERS), unlink]


def listing_rows(scale: Scale, seed: str) -> list[Row]:
    """ls and ls -l, as programs. The driver counts the lines."""
    rows = []
    for suffix, count in (("", scale.file_count), ("-many", scale.many_count)):
        files = FileSet(
            f"set-ls-{count}", functools.partial(small_files, seed, count, LISTED_BYTES)
        )
        for words, job, extra in ((["ls"], "list", 0), (["ls", "-l"], "liststat", 1)):
            rows.append(
                Row(
                    key="".join(words) + suffix,
                    title=f"{' '.join(words)} of {count} files cold",
                    amount=count,
                    files=files,
                    job={"job": "commands", "commands": [[*words, "{}"]]},
                    limit={"job": job},
                    verify=expecting(count + extra),  # ls -l begins with a line "total"
                )
            )
    return rows


def change_rows(scale: Scale, seed: str) -> list[Row]:
    """xattrs, appends, replacing, and attributes of an open file."""
    xattr_args: Args = {"count": scale.xattr_count, "size": 0, "seed": seed}
    xattr_files = FileSet(WORK, lambda: small_files(seed, scale.xattr_count))
    values = {
        name: content(seed + name, 16).hex().encode() for name in file_names(scale.xattr_count)
    }
    lines: Args = {
        "name": STATE, "count": scale.append_count, "size": LINE_BYTES, "seed": seed,
    }  # fmt: skip
    states: Args = {
        "name": STATE, "count": scale.replace_count, "size": STATE_BYTES, "seed": seed,
    }  # fmt: skip
    return [
        Row(
            key="xattr-set",
            title=f"set an xattr on {scale.xattr_count} files just listed",
            amount=scale.xattr_count,
            files=xattr_files,
            job={"job": "setxattr", **xattr_args, "seen": True},
            limit={"job": "setxattr", **xattr_args},
            verify=holding_xattrs(KEY, values),
        ),
        Row(
            key="xattr-get",
            title=f"get an xattr of {scale.xattr_count} files cold",
            amount=scale.xattr_count,
            files=xattr_files,
            before={"job": "setxattr", **xattr_args},
            job={"job": "getxattr", **xattr_args},
            limit={"job": "getxattr", **xattr_args},
            verify=expecting(checksum(values.values())),
        ),
        Row(
            key="append",
            title=f"{scale.append_count} appends of {LINE_BYTES} bytes, fsync each",
            amount=scale.append_count,
            job={"job": "append", **lines},
            limit={"job": "append", **lines},
            verify=holding(lambda: {STATE: content(seed, LINE_BYTES * scale.append_count)}),
        ),
        Row(
            key="replace",
            title=f"{scale.replace_count} times write-temp, fsync, rename-over",
            amount=scale.replace_count,
            job={"job": "replace", **states},
            limit={"job": "replace", **states},
            verify=holding(
                lambda: {STATE: content(seed, STATE_BYTES * scale.replace_count)[-STATE_BYTES:]}
            ),
        ),
        Row(
            key="getattr",
            title=f"{scale.fstat_count} stats of an open file, {STAT_WORKERS} at once",
            amount=scale.fstat_count,
            files=FileSet("set-big", lambda: {BIG: content(seed, scale.big_bytes)}),
            job={
                "job": "fstat",
                "name": BIG,
                "count": scale.fstat_count,
                "workers": STAT_WORKERS,
            },
            verify=expecting(scale.big_bytes * STAT_WORKERS),
        ),
    ]


def rows_of(scale: Scale, seed: str) -> list[Row]:
    makers = (big_rows, page_rows, small_rows, listing_rows, change_rows)
    return [row for make in makers for row in make(scale, seed)]
