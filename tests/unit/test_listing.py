"""One opendir: numbered entries, and errors that stay errors."""

from collections.abc import AsyncGenerator

import pytest

from radosmount.errors import TimedOut
from radosmount.store.interface import ListedObject, ObjectKey
from radosmount.vfs.listing import DirectoryEntry, Listing, object_entries
from radosmount.vfs.nodes import ObjectPlace
from tests.support.stores import key_of

PLACE = ObjectPlace(1, b"")


class Source:
    """Batches of names as a store lists them; `fails` raises behind the last."""

    def __init__(self, *batches: list[bytes], fails: bool = False) -> None:
        self.batches = batches
        self.fails = fails
        self.fetched_count = 0
        self.is_closed = False

    async def run(self) -> AsyncGenerator[list[ListedObject], None]:
        try:
            for batch in self.batches:
                self.fetched_count += 1
                yield [ListedObject(b"", name, b"") for name in batch]
            if self.fails:
                raise TimedOut("no")
        finally:
            self.is_closed = True


def listing_of(
    source: Source, unstored: list[ObjectKey] | None = None, path: tuple[bytes, ...] = ()
) -> Listing:
    return Listing(object_entries(PLACE, path, source.run(), unstored or []))


async def names(listing: Listing) -> list[bytes]:
    found: list[DirectoryEntry] = []
    while (entry := await listing.entry(len(found))) is not None:
        found.append(entry)
    return [entry.name for entry in found]


async def test_entries_keep_their_numbers() -> None:
    """An entry has the same number whenever it is asked for."""
    listing = listing_of(Source([b"a", b"b"], [b"c"]))
    assert await names(listing) == [b"a", b"b", b"c"]
    entry = await listing.entry(1)
    assert entry == DirectoryEntry(b"b", key_of(b"b"))
    assert await listing.entry(3) is None


async def test_fetches_as_far_as_asked() -> None:
    """No more is asked of the store than the reader wants, and closing ends it."""
    source = Source([b"a"], [b"b"], [b"c"])
    listing = listing_of(source)
    await listing.entry(0)
    assert source.fetched_count == 1
    await listing.aclose()
    assert source.is_closed
    await listing.aclose()


async def test_failure_behind_what_was_listed() -> None:
    """An error comes after the entries before it, again and again, never as an end."""
    listing = listing_of(Source([b"a"], fails=True))
    assert await listing.entry(0) is not None
    for _ in range(2):
        with pytest.raises(TimedOut):
            await listing.entry(1)
    assert await listing.entry(0) is not None


async def test_unstored_files_come_first_and_once() -> None:
    """A file that the store does not list yet is there; when it is stored meanwhile, once."""
    listing = listing_of(Source([b"a", b"new"]), [key_of(b"new")])
    assert await names(listing) == [b"new", b"a"]


async def test_overlong_names_go_on_in_directories() -> None:
    """Names over 255 bytes with the same beginning share one directory, listed once."""
    long = b"n" * 300
    listing = listing_of(Source([long + b"1"], [long + b"2", b"short"]))
    listed = await names(listing)
    assert len(listed) == 2
    assert b"short" in listed
    [directory] = [name for name in listed if name != b"short"]
    assert len(directory) == 255
    below = listing_of(Source([long + b"1"], [long + b"2", b"short"]), path=(directory,))
    assert len(await names(below)) == 2
