"""One opendir(3): the names of a directory, as they come from the store, numbered for good.

An entry's number is its offset for telldir/seekdir: entries are only added at the end, so a
number means the same as long as the directory is open. A listing holds 100 to 200 bytes a
name that was asked for.
"""

import functools
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, NamedTuple

import trio

from radosmount.errors import RadosmountError
from radosmount.store.interface import ListedObject, ObjectKey
from radosmount.store.names import FLAT, Path, entry_of, flat_components
from radosmount.vfs.nameindex import Name
from radosmount.vfs.nodes import ObjectPlace
from radosmount.vfs.pools import Pools
from radosmount.vfs.trees import Tree

# A listing of the tree view may be so old, that `ls -R` lists the pool once and not for each
# directory.
TREE_LISTING_FRESHNESS_S: Final = 1.0
# So many names are made at a time, lest other requests wait.
TREE_BATCH_COUNT: Final = 1000


class DirectoryEntry(NamedTuple):
    """`target`: the object; the pool's place; or None for a directory within a pool. A tuple,
    since one is made of every name that is listed."""

    name: bytes
    target: ObjectKey | ObjectPlace | None


Entries = list[DirectoryEntry]

# From their fields in a tuple: half the price of the call of the class, for every name listed.
_key_of = functools.partial(tuple.__new__, ObjectKey)
_entry_of = functools.partial(tuple.__new__, DirectoryEntry)


class Listing:
    """`batches` is consumed as far as entries are asked for."""

    def __init__(self, batches: AsyncIterator[list[DirectoryEntry]]) -> None:
        self._batches: AsyncIterator[list[DirectoryEntry]] | None = batches
        self._entries: list[DirectoryEntry] = []
        self._failure: RadosmountError | None = None

    async def entry(self, index: int) -> DirectoryEntry | None:
        """The entry of that number; None behind the last.

        Raises: what the store raised while listing, again at every call.
        """
        while index >= len(self._entries) and self._batches is not None:
            await self._fetch(self._batches)
        if index < len(self._entries):
            return self._entries[index]
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        return None

    def window(self, index: int, count: int) -> list[DirectoryEntry]:
        """At most so many entries from that number on, as far as they are known."""
        return self._entries[index : index + count]

    async def aclose(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None:
            await batches.aclose()  # type: ignore[attr-defined]

    async def _fetch(self, batches: AsyncIterator[list[DirectoryEntry]]) -> None:
        try:
            self._entries += await anext(batches)
        except StopAsyncIteration:
            self._batches = None
        except RadosmountError as failure:
            self._batches = None
            self._failure = failure


async def pool_entries(pools: Pools) -> AsyncIterator[list[DirectoryEntry]]:
    """The root's directories, the newest pools among them where a monitor answers."""
    await pools.refresh()
    yield [DirectoryEntry(name, ObjectPlace(pool_id, b"")) for name, pool_id in pools.visible()]


async def no_entries() -> AsyncIterator[Entries]:
    """Of a directory whose names are not listed."""
    yield []


async def tree_entries(tree: Tree, place: ObjectPlace, path: Path) -> AsyncIterator[Entries]:
    """What is directly in a directory of the tree view, as it was up to a second ago or later."""
    names = (await tree.listed(TREE_LISTING_FRESHNESS_S)).names(path)
    while batch := list(itertools.islice(names, TREE_BATCH_COUNT)):
        yield [_tree_entry(place, name) for name in batch]
        await trio.lowlevel.checkpoint()


def _tree_entry(place: ObjectPlace, name: Name) -> DirectoryEntry:
    key = ObjectKey(place.pool_id, place.namespace, *name.found) if name.found else None
    return DirectoryEntry(name.component, key)


async def object_entries(
    place: ObjectPlace,
    path: tuple[bytes, ...],
    objects: AsyncIterator[list[ListedObject]],
    unstored: list[ObjectKey],
) -> AsyncGenerator[list[DirectoryEntry], None]:
    """What lies directly in the directory `path`: `unstored` files first, which the store
    does not list yet, then the store's."""
    seen: set[bytes] = set()
    yield _entries_of(unstored, path, seen)
    skipped = set(unstored)
    pool_id, namespace = place.pool_id, place.namespace
    try:
        async for batch in objects:
            rows = [(pool_id, namespace, listed.name, listed.locator) for listed in batch]
            keys: list[ObjectKey] = [*map(_key_of, rows)]
            if skipped:
                keys = [key for key in keys if key not in skipped]
            yield _plain_entries(keys, path) or _entries_of(keys, path, seen)
    finally:
        await objects.aclose()  # type: ignore[attr-defined]


def _plain_entries(keys: list[ObjectKey], directory: Path) -> Entries | None:
    """Of the pool's own directory, where nothing is out of the ordinary: nearly always."""
    if directory or any(key.locator for key in keys):
        return None
    components = flat_components([key.name for key in keys])
    if components is None:
        return None
    return [*map(_entry_of, zip(components, keys, strict=True))]


def _entries_of(
    keys: list[ObjectKey], directory: tuple[bytes, ...], seen: set[bytes]
) -> list[DirectoryEntry]:
    """`seen` has the directories that were shown already: many names go on in the same."""
    entries = []
    for key in keys:
        entry = entry_of(FLAT.path_of(key.name, key.locator), directory)
        if entry is None or (entry.is_directory and entry.name in seen):
            continue
        if entry.is_directory:
            seen.add(entry.name)
        entries.append(DirectoryEntry(entry.name, None if entry.is_directory else key))
    return entries
