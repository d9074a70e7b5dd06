"""`hello`, `heartbeat`, `goodbye`: the frames that open a connection, keep it, and end it."""

from __future__ import annotations

from chat import protocol
from chat.edge.connection import LOGIN, Connection
from chat.edge.context import Context
from chat.errors import Goodbye, ProtocolError


def hello(context: Context, session: Connection, request: protocol.Hello) -> protocol.Welcome:
    """Raises ProtocolError `bad_version`."""
    if request.version != protocol.VERSION:
        raise ProtocolError("bad_version", f"version {request.version} is not spoken here; {protocol.VERSION} is")
    config = context.config
    session.state = LOGIN
    return protocol.Welcome(
        version=protocol.VERSION,
        edge=config.name,
        heartbeat_ms=config.heartbeat_ms,
        heartbeat_misses=config.heartbeat_misses,
        max_frame=config.max_frame,
        server_time=context.clock.now(),
    )


def heartbeat(context: Context, session: Connection, request: protocol.Heartbeat) -> protocol.HeartbeatReply:
    """One with spaces or a `rid`; the plain form does not come here."""
    return protocol.HeartbeatReply()


def goodbye(context: Context, session: Connection, request: protocol.LeaveNow) -> None:
    session.queue = None  # what is behind it is not wanted
    session.finish(None, Goodbye.ASKED, "as you wish")
