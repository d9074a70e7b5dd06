"""A process tells whoever started it that it is ready: `READY=1` to the datagram socket named by NOTIFY_SOCKET, as systemd
defines it (sd_notify(3)). So one word serves `chat up` and systemd units with Type=notify."""

from __future__ import annotations

import os
import socket
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
READY: Final = b"READY=1"
STOPPING: Final = b"STOPPING=1"


def notify(state: bytes) -> None:
    """Never blocks, never fails: nobody may be listening."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(state, address)
        except OSError:
            return
