"""`radosmount restore`: write back what the spool has kept.

It is the flush that failed, done once more: the same plan, the same guards. So an object that
others have changed since is left alone, and what was applied after all, though nobody heard, is
recognised and neither refused nor, if appended, doubled.
"""

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from radosmount.cache.budget import Budget
from radosmount.cache.changes import Flight
from radosmount.cache.file import NOTHING, CachedFile
from radosmount.cache.flush import Flusher, FlushFailed
from radosmount.cache.spool import rewrite
from radosmount.cache.spoolfile import Spooled, decode, movable
from radosmount.cache.stalls import Stalls
from radosmount.config import MIB, CacheConfig, ConflictMode, StoreConfig
from radosmount.errors import SpoolError, StoreError, VersionConflict
from radosmount.store.interface import ObjectKey, Store

# For the copies that operations under way carry; a larger operation goes alone.
IN_FLIGHT_BYTES_MAX: Final = 32 * MIB


@dataclass(frozen=True, slots=True)
class Manner:
    """`is_forced`: overwrite what others have written. `keeps_files`: do not remove what is
    restored. `other_name`: of the object to make instead."""

    is_forced: bool = False
    keeps_files: bool = False
    other_name: bytes | None = None


def restore(config: StoreConfig, paths: Sequence[str], manner: Manner) -> list[str]:
    """Restore these files, and print what was done; return why some were not, a line each.

    Raises: MountError where the cluster cannot be reached.
    """
    return trio.run(_restore_all, config, paths, manner)


async def _restore_all(config: StoreConfig, paths: Sequence[str], manner: Manner) -> list[str]:
    from radosmount.store.rados.store import open_rados_store

    failures: list[str] = []
    store = await open_rados_store(config)
    try:
        for path in paths:
            try:
                print(f"{path}: {await restore_file(store, path, manner)}", flush=True)
            except (SpoolError, OSError) as failure:
                reason = failure.strerror if isinstance(failure, OSError) else failure
                failures.append(f"{path}: {reason}")
    finally:
        with contextlib.suppress(StoreError):  # calls that never end do not keep us
            await store.aclose()
    return failures


async def restore_file(store: Store, path: str, manner: Manner) -> str:
    """Write one spool file back, and remove it; return what was done, in plain words.

    Where something was written, but not all, the file knows it afterwards.
    Raises: SpoolError; OSError.
    """
    spooled = decode(_read(path))
    target = _target(store, spooled, manner)
    flusher, file = _prepare(store, target, manner)
    file.start_write()
    try:
        await flusher.store_flight(file)
    except FlushFailed as failure:
        file.fail_write(failure.cause, failure.begun)
        is_begun = failure.begun is not None or failure.cause.is_outcome_unknown
        if is_begun and target.key == spooled.key:
            attempts = tuple(file.attempts)
            left = movable(file.unstored(), attempts)
            _bring_up_to_date(path, replace(spooled, flight=left, attempts=attempts), failure)
        raise SpoolError(_refusal(failure, target, manner)) from failure
    if not manner.keeps_files:
        os.unlink(path)
    byte_count = spooled.flight.changes.extents.byte_count
    name, pool = _shown(target.key.name), _shown(spooled.pool_name)
    return f"wrote {byte_count} bytes to {name} in pool {pool}"


def _bring_up_to_date(path: str, spooled: Spooled, failure: FlushFailed) -> None:
    """Raises: SpoolError; the next try would then not know what this one has done."""
    try:
        rewrite(path, spooled)
    except OSError as problem:
        text = f"is perhaps written in part ({failure.cause}), and cannot say so: "
        raise SpoolError(text + str(problem.strerror)) from problem


def _target(store: Store, spooled: Spooled, manner: Manner) -> Spooled:
    """What is to be written, and where. Raises: SpoolError."""
    is_here = spooled.cluster_id in ("", store.cluster_id)
    if not is_here and not manner.is_forced:
        text = f"is of another cluster ({spooled.cluster}, fsid {spooled.cluster_id})"
        raise SpoolError(f"{text}: --force writes it to this one")
    target = replace(spooled, key=_key_with_pool(store, spooled, manner))
    if manner.other_name is not None:
        return _as_other(target, manner.other_name)
    if manner.is_forced and target.flight.replaces_all:
        return replace(target, flight=_as_new(target.flight))
    return target


def _prepare(store: Store, target: Spooled, manner: Manner) -> tuple[Flusher, CachedFile]:
    flight, attempts = target.flight, target.attempts
    # Appended bytes go behind what others have appended: nothing needs to be overwritten.
    overwrites = manner.is_forced and (flight.is_new or not flight.is_append)
    config = CacheConfig(
        atomic_max_bytes=store.limits.operation_bytes_max,
        conflict=ConflictMode.LAST_WRITER if overwrites else ConflictMode.FAIL,
    )
    flusher = Flusher(store, config, Budget(IN_FLIGHT_BYTES_MAX), Stalls(), lambda file: None)
    if not manner.is_forced:  # a run before this one may have been killed half way
        attempts = (*attempts, flusher.attempt_of(flight))
        flight = movable(flight, attempts)
    return flusher, CachedFile.with_unstored(target.key, flight, attempts)


def _read(path: str) -> bytes:
    """Raises: SpoolError; OSError."""
    with open(path, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SpoolError("is no spool file")
        return file.read()


def _key_with_pool(store: Store, spooled: Spooled, manner: Manner) -> ObjectKey:
    """Where the pool was made anew, `--force` takes that of the same name. Raises: SpoolError."""
    key = spooled.key
    pools = store.pools()
    named = [pool.pool_id for pool in pools if pool.name == spooled.pool_name]
    if any(pool.pool_id == key.pool_id for pool in pools):
        return key
    if named and manner.is_forced:
        return key._replace(pool_id=named[0])
    name = _shown(spooled.pool_name)
    if named:
        raise SpoolError(f"its pool {name} was removed, and made anew: --force writes to the new")
    raise SpoolError(f"its pool {name} (id {key.pool_id}) is not in this cluster")


def _as_other(spooled: Spooled, name: bytes) -> Spooled:
    """The same content as a new object. Raises: SpoolError where not all of it is there."""
    flight = spooled.flight
    if not flight.replaces_all:
        raise SpoolError("has only parts of an object: --as needs a whole one")
    key = spooled.key._replace(name=name, locator=b"")
    return replace(spooled, key=key, flight=_as_new(flight), attempts=())


def _as_new(flight: Flight) -> Flight:
    """The same, where nothing that stands there counts."""
    changes = replace(flight.changes, cut=0)
    return replace(flight, base=NOTHING, is_new=True, changes=changes)


def _refusal(failure: FlushFailed, spooled: Spooled, manner: Manner) -> str:
    """Why it is not written, and what to do."""
    cause = failure.cause
    if failure.begun is not None:
        force = "" if manner.other_name is None else " with --force"
        return f"is written in part only, try again{force}: {cause}"
    if not isinstance(cause, VersionConflict):
        return f"is not written: {cause}"
    name = _shown(spooled.key.name)
    if manner.is_forced:
        return f"has only parts of {name}, which does not exist any more"
    whole = " (or --as NAME makes another object)" if spooled.flight.replaces_all else ""
    is_new = spooled.flight.is_new
    change = "there is such an object by now" if is_new else "it was changed or removed since"
    return f"does not overwrite {name}: {change}; --force writes it all the same{whole}"


def _shown(name: bytes) -> str:
    return repr(name.decode(errors="backslashreplace"))
