"""What both drivers know of RADOS: its limits, and names that nobody else gives."""

from typing import Final

# Removing an xattr that is not there changes nothing, but it is a write: it needs the write cap,
# and the object, so it asserts that the object exists.
NO_XATTR: Final = b"_none_"

# Unlikely to exist. The caps are checked before the object is looked for.
PROBE_NAME: Final = b"radosmount.probe.0d1c5f0e"

# osd_max_omap_entries_per_request: an OSD returns no more at once.
OMAP_PAGE_COUNT: Final = 1024
