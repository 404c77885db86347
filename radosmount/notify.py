"""sd_notify(3), as much as a service of Type=notify needs. Does nothing without systemd."""

import logging
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


class ServiceManager:
    """Whoever started us, if it wants to hear of our state."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address[0] == "@" else address

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "ServiceManager":
        return cls(environment.get("NOTIFY_SOCKET"))

    @property
    def is_there(self) -> bool:
        return bool(self._address)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def extend_timeout(self, extension_s: float) -> None:
        """Ask for at least this much more time, from now, to start or stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(extension_s * 1e6)}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(errors="replace"), self._address)
        except OSError as failure:
            log.warning("cannot tell the service manager: %s", failure)
