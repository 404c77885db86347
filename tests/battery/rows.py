"""All rows, in the order in which they run."""

from tests.battery import kills
from tests.battery.row import Row

ROWS: tuple[Row, ...] = (*kills.ROWS,)
