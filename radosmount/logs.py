"""Where log lines go: stderr in the foreground, else syslog, or a file with -o log_file=."""

import logging
import logging.handlers
import os
import re
from typing import Final

from radosmount.config import Config
from radosmount.errors import MountError

SYSLOG_SOCKET: Final = "/dev/log"
# What pyfuse3 says where the kernel has unmounted before a reply that it does not wait for.
UNAWAITED_REPLY: Final = re.compile(
    r"^fuse_release(dir)?\(\): fuse_reply_\* failed with No such file"
)


def configure_logging(config: Config) -> None:
    """Raises: MountError where the log file cannot be written."""
    handler, line = make_handler(config)
    handler.setFormatter(logging.Formatter(line))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if config.is_debug else logging.INFO)
    pyfuse3_log = logging.getLogger("pyfuse3")
    pyfuse3_log.setLevel(logging.INFO)  # its DEBUG is several lines a request
    pyfuse3_log.addFilter(is_of_interest)
    logging.raiseExceptions = config.is_foreground  # the daemon has no stderr to complain on


def is_of_interest(record: logging.LogRecord) -> bool:
    return not UNAWAITED_REPLY.search(record.getMessage())


def make_handler(config: Config) -> tuple[logging.Handler, str]:
    """The handler, and the form of its lines."""
    path = config.process.log_path
    if path:
        try:
            # Watched: logrotate may move the file away under us.
            return logging.handlers.WatchedFileHandler(path), (
                "%(asctime)s %(levelname)s %(name)s: %(message)s"
            )
        except OSError as failure:
            raise MountError(f"cannot write the log file {path}: {failure.strerror}") from failure
    if config.is_foreground:
        return logging.StreamHandler(), "radosmount: %(levelname)s: %(message)s"
    if not os.path.exists(SYSLOG_SOCKET):
        return logging.NullHandler(), ""
    syslog = logging.handlers.SysLogHandler(SYSLOG_SOCKET)
    syslog.ident = f"radosmount[{os.getpid()}]: "
    return syslog, "%(levelname)s: %(message)s"
