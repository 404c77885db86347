"""What does not go into the log."""

import logging

import pytest

from radosmount.logs import is_of_interest


@pytest.mark.parametrize(
    ("text", "is_shown"),
    [
        ("fuse_release(): fuse_reply_* failed with No such file or directory", False),
        ("fuse_releasedir(): fuse_reply_* failed with No such file or directory", False),
        ("fuse_release(): fuse_reply_* failed with Input/output error", True),
        ("fuse_read(): fuse_reply_* failed with No such file or directory", True),
    ],
)
def test_replies_that_nobody_waits_for(text: str, is_shown: bool) -> None:
    """The kernel unmounts while a RELEASE is being answered: nothing is wrong."""
    record = logging.LogRecord("pyfuse3", logging.ERROR, __file__, 1, text, None, None)
    assert is_of_interest(record) is is_shown
