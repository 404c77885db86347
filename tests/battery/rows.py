"""All rows, in the order in which they run. One line a module."""

from tests.battery import (
    ends,
    kills,
)
from tests.battery.row import Row

ROWS: tuple[Row, ...] = (
    *kills.ROWS,
    *ends.ROWS,
)
