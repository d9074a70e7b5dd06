"""The PROXY protocol, versions 1 and 2: who is really on the other side of nginx. Pure.

`parse` gets everything read so far and says `None` while the header is incomplete. The header is bounded: 107 bytes for
version 1, `MAX_V2` for version 2. A LOCAL or UNKNOWN header carries no address: then the peer of the socket counts.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

V1_START: Final = b"PROXY "
V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1: Final = 107
MAX_V2: Final = 16 + 1_024  # addresses and what TLVs a proxy may add

_V2_HEAD: Final = 16
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESSES: Final = {_TCP4: 12, _TCP6: 36}


class ProxyError(ValueError):
    """The bytes are no PROXY header: the connection is not from the proxy."""


class Header(NamedTuple):
    """`address` is None where the header has none. `size`: bytes of the header; the client's own bytes follow."""

    address: str | None
    size: int


def parse(data: bytes) -> Header | None:
    """Raises ProxyError. None: more bytes are needed."""
    if data.startswith(V2_START):
        return _version_2(data)
    if data.startswith(V1_START):
        return _version_1(data)
    if V2_START.startswith(data) or V1_START.startswith(data):
        return None
    raise ProxyError("no PROXY header")


def _version_1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ProxyError("a PROXY line that does not end")
        return None
    words = data[:end].split(b" ")
    if len(words) >= 2 and words[1] == b"UNKNOWN":
        return Header(None, end + 2)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyError("a PROXY line of another form")
    try:
        address = ip_address(words[2].decode("ascii"))
        ports = [int(w) for w in words[4:] if w.isdigit()]
    except ValueError as error:
        raise ProxyError(f"a PROXY line with a wrong address: {error}") from None
    if len(ports) != 2 or max(ports) > 65_535 or address.version != (4 if words[1] == b"TCP4" else 6):
        raise ProxyError("a PROXY line with a wrong address")
    return Header(str(address), end + 2)


def _version_2(data: bytes) -> Header | None:
    if len(data) < _V2_HEAD:
        return None
    command, family = data[12], data[13]
    length = int.from_bytes(data[14:16], "big")
    size = _V2_HEAD + length
    if size > MAX_V2:
        raise ProxyError(f"a PROXY header of {size} bytes")
    if command not in (_LOCAL, _PROXY):
        raise ProxyError("an unknown PROXY command")
    if len(data) < size:
        return None
    if command == _LOCAL or family not in _ADDRESSES:
        return Header(None, size)
    if length < _ADDRESSES[family]:
        raise ProxyError("a PROXY header without its addresses")
    if family == _TCP4:
        return Header(str(IPv4Address(data[16:20])), size)
    return Header(str(IPv6Address(data[16:32])), size)
