"""What this mount removes while a directory is open: a listing that began before leaves it out."""

from collections import OrderedDict
from typing import Final

from radosmount.store.interface import ObjectKey

COUNT_MAX: Final = 10_000  # that are remembered: a directory may be open for ever


class Vanished:
    """Objects, numbered in the order of their removal."""

    def __init__(self) -> None:
        self.count = 0
        self._numbers: OrderedDict[ObjectKey, int] = OrderedDict()

    def note(self, key: ObjectKey, is_there: bool) -> None:
        """It was removed; or made, or heard to be there."""
        self._numbers.pop(key, None)
        if not is_there:
            self.count += 1
            self._numbers[key] = self.count
            if len(self._numbers) > COUNT_MAX:
                self._numbers.popitem(last=False)

    def forget(self) -> None:
        """No listing has begun before."""
        self._numbers.clear()

    def has(self, key: ObjectKey, since: int) -> bool:
        """Whether it is gone since there were so many."""
        return self._numbers.get(key, 0) > since
