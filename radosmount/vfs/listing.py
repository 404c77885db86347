"""One opendir(3): the names of a directory, as they come from the store, numbered for good.

An entry's number is its offset for telldir/seekdir: entries are only added at the end, so a
number means the same as long as the directory is open. A listing holds 100 to 200 bytes a
name that was asked for.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from radosmount.errors import RadosmountError
from radosmount.store.interface import ListedObject, ObjectKey
from radosmount.store.names import FLAT, entry_of
from radosmount.vfs.nodes import ObjectPlace
from radosmount.vfs.pools import Pools


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """`target`: the object; the pool's place; or None for a directory within a pool."""

    name: bytes
    target: ObjectKey | ObjectPlace | None


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
            raise self._failure
        return None

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


async def object_entries(
    place: ObjectPlace,
    path: tuple[bytes, ...],
    objects: AsyncIterator[list[ListedObject]],
    unstored: list[ObjectKey],
) -> AsyncIterator[list[DirectoryEntry]]:
    """What lies directly in the directory `path`: `unstored` files first, which the store
    does not list yet, then the store's."""
    seen: set[bytes] = set()
    yield _entries_of(unstored, path, seen)
    skipped = set(unstored)
    try:
        async for batch in objects:
            keys = [
                ObjectKey(place.pool_id, place.namespace, listed.name, listed.locator)
                for listed in batch
            ]
            yield _entries_of([key for key in keys if key not in skipped], path, seen)
    finally:
        await objects.aclose()  # type: ignore[attr-defined]


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
