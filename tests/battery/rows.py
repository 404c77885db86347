"""All rows, in the order in which they run. One line a module."""

from tests.battery import (
    appends,
    behind,
    clusters,
    cutoff,
    ends,
    ext4,
    full,
    hostile,
    kills,
    leaks,
    messenger,
    model,
    mounts,
    planted,
    programs,
)
from tests.battery.row import Row

ROWS: tuple[Row, ...] = (
    *model.ROWS,
    *ext4.ROWS,
    *hostile.ROWS,
    *kills.ROWS,
    *ends.ROWS,
    *clusters.ROWS,
    *messenger.ROWS,
    *full.ROWS,
    *cutoff.ROWS,
    *programs.ROWS,
    *behind.ROWS,
    *mounts.ROWS,
    *leaks.ROWS,
    *appends.ROWS,
    *planted.ROWS,
)
