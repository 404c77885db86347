"""radosmount as it is, but that it gives up at its end after seconds. Run as a program."""

import sys
from dataclasses import replace
from typing import Final

from radosmount import app, cli
from radosmount.config import Config
from radosmount.lifecycle import OnReady
from radosmount.logs import configure_logging

STALL_LIMIT_S: Final = 4


def serve(config: Config, announce_ready: OnReady) -> int:
    configure_logging(config)
    process = replace(config.process, stall_limit_s=STALL_LIMIT_S)
    return app.run(replace(config, process=process), announce_ready)


if __name__ == "__main__":
    cli.serve = serve
    sys.exit(cli.main())
