"""What happens to a store in memory, by seed: it delays calls, fails them and loses replies; and
another client changes its objects."""

import functools
import random
from dataclasses import dataclass
from typing import Final

import trio

from radosmount.errors import Disconnected, NoSpace, QuotaExceeded, TimedOut
from radosmount.store.interface import Change, SetXattr
from radosmount.store.memory import Call, MemoryStore
from tests.support.stores import key_of

FAILURES: Final = (TimedOut, TimedOut, Disconnected, NoSpace, QuotaExceeded)
FAILED_ONE_OF: Final = 12  # calls of the store
DELAY_MAX_S: Final = 0.3
XATTR_KEY: Final = b"k"
MANNERS: Final = ("rewrite", "remove", "set an xattr")


class Faults:
    """What the store does to its calls, until it is told to end."""

    def __init__(self, store: MemoryStore, rng: random.Random) -> None:
        self.store, self.random = store, rng
        self.count = 0
        self.is_on = True
        store.delay = self.delay

    async def delay(self, call: Call) -> None:
        if not self.is_on:
            return
        await trio.sleep(self.random.random() ** 3 * DELAY_MAX_S)
        if self.is_on and self.random.randrange(FAILED_ONE_OF) == 0:
            error = self.random.choice(FAILURES)
            is_change = call.method == "apply"
            if is_change or error.is_outcome_unknown:
                is_lost = is_change and error.is_outcome_unknown and self.random.random() < 0.6
                matches = functools.partial(_is_same, call)
                self.store.fail_next(error("injected"), matches, applied=is_lost)
                self.count += 1

    def end(self) -> None:
        self.is_on = False
        self.store._failures.clear()


def _is_same(call: Call, other: Call) -> bool:
    return call is other


@dataclass
class File:
    """What a name must be. None: it is not there."""

    content: bytes
    xattr: bytes | None = None


class Others:
    """Another client, which has its way at once."""

    def __init__(self, store: MemoryStore, rng: random.Random) -> None:
        self.store, self.random = store, rng
        self.count = 0

    def change(self, name: bytes, file: File | None) -> File | None:
        """Return what `file` has become. What is not there is made."""
        manner, key = self.random.choice(MANNERS), key_of(name)
        self.count += 1
        if file is None or manner == "rewrite":
            content = self.random.randbytes(self.random.choice((8, 70)))
            self.store.put_now(key, content)
            return File(content, None if file is None else file.xattr)
        if manner == "remove":
            self.store.remove_now(key)
            return None
        self.store.change_now(key, Change((SetXattr(XATTR_KEY, manner.encode()),)))
        return File(file.content, manner.encode())
