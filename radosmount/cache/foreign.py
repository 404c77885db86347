"""Changes of a file's object that are not ours, as they are heard of.

Who writes by a descriptor that was opened before one would overwrite what he has not seen: so each
open notes how many there were.
"""


class ForeignChanges:
    """Numbered from 1. A change that is observed before we hear that it was ours counts until
    then; who opened the file meanwhile has seen it, too."""

    __slots__ = ("_mistaken", "_observed", "count")

    def __init__(self) -> None:
        self.count = 0
        self._observed = 0, 0  # the last one that was: the object's version, its number
        self._mistaken: set[int] = set()

    def note(self) -> None:
        self.count += 1

    def observe(self, version: int) -> None:
        """The object is at `version`, and not by us as far as we know."""
        self.note()
        self._observed = version, self.count

    def take_back(self, version: int) -> None:
        """What has made it `version` was ours after all."""
        observed_version, number = self._observed
        if version == observed_version:
            self._mistaken.add(number)

    def has_any_since(self, count: int) -> bool:
        """Whether there was one since there were `count`."""
        if count == self.count:
            return False
        return not self._mistaken.issuperset(range(count + 1, self.count + 1))
