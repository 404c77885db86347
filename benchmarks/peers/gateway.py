"""The RADOS gateway (radosgw), which the S3 mounts go through."""

import socket
import time
from typing import Final

from benchmarks.peers.interface import Site
from benchmarks.peers.s3 import Gateway, S3Client
from benchmarks.processes import PeerError, run_quietly

START_TIMEOUT_S: Final = 60.0
GATEWAY_TURNS: Final = 1
DAEMON: Final = "client.rgw"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GatewayDaemon:
    """Started by the first peer that needs it; the lab ends it as one of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._gateway: Gateway | None = None

    def get(self) -> Gateway:
        """Raises: PeerError, MountError."""
        if self._gateway is None:
            self._gateway = self._start()
        return self._gateway

    def make_bucket(self, bucket: str) -> None:
        client = S3Client(self.get())
        client.request("PUT", f"/{bucket}")
        client.close()

    def _start(self) -> Gateway:
        gateway, lab = Gateway(free_port()), self._site.lab
        # Its seven pools with 32 placement groups each are more than one OSD may have.
        lab.ceph("config", "set", "global", "osd_pool_default_pg_num", "8")
        caps = ("mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw")
        keyring = lab.directory / "rgw.keyring"
        keyring.write_text(lab.ceph("auth", "get-or-create", DAEMON, *caps))
        self._site.add_section(
            DAEMON,
            keyring=str(keyring),
            rgw_data=str(lab.directory),
            rgw_frontends=f"beast endpoint=127.0.0.1:{gateway.port} tcp_nodelay=1",
            rgw_enable_usage_log="false",
        )
        self._site.start_daemon(
            "radosgw", ["radosgw", "-f", "-i", "rgw", "-c", self._site.conf, "-n", DAEMON]
        )
        self._wait_for_answers(gateway.port)
        self._make_user(gateway)
        return gateway

    def _wait_for_answers(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise PeerError("the gateway does not answer") from None
                time.sleep(0.1)

    def _make_user(self, gateway: Gateway) -> None:
        keys = ("--access-key", gateway.access_key, "--secret-key", gateway.secret_key)
        user = ("--uid", "bench", "--display-name", "bench", *keys)
        run_quietly(("radosgw-admin", "-c", self._site.conf, "user", "create", *user))
