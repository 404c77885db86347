"""All rows, in the order in which they run. One line a module."""

from tests.battery import (
    appends,
    behind,
    clusters,
    ends,
    full,
    kills,
    leaks,
    messenger,
    mounts,
    programs,
)
from tests.battery.row import Row

ROWS: tuple[Row, ...] = (
    *kills.ROWS,
    *ends.ROWS,
    *clusters.ROWS,
    *messenger.ROWS,
    *full.ROWS,
    *programs.ROWS,
    *behind.ROWS,
    *mounts.ROWS,
    *leaks.ROWS,
    *appends.ROWS,
)
