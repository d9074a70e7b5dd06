import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.edge.proxy import MAX_V1, MAX_V2, V2_START, Header, ProxyError, parse

V1 = b"PROXY TCP4 10.1.2.3 10.0.0.1 4000 7200\r\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return V2_START + bytes([command, family]) + len(body).to_bytes(2, "big") + body


IPV4 = bytes([10, 1, 2, 3, 10, 0, 0, 1]) + b"\x0f\xa0\x1c\x20"
IPV6 = bytes(15) + b"\x05" + bytes(16) + b"\x0f\xa0\x1c\x20"

GOOD = [
    (V1, "10.1.2.3"),
    (b"PROXY TCP6 2001:db8::1 ::1 4000 7200\r\n", "2001:db8::1"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ff ff 1 2\r\n", None),
    (v2(0x21, 0x11, IPV4), "10.1.2.3"),
    (v2(0x21, 0x21, IPV6), "::5"),
    (v2(0x21, 0x11, IPV4 + b"\x03\x00\x04abcd"), "10.1.2.3"),
    (v2(0x20, 0x00, b""), None),
    (v2(0x21, 0x00, b"12345"), None),
]


@pytest.mark.parametrize(("header", "address"), GOOD)
def test_good_headers_whole_and_in_pieces(header: bytes, address: str | None) -> None:
    assert parse(header + b"\x00\x00\x00\x05") == Header(address, len(header))
    assert [parse(header[:n]) for n in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x20{",
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 10.1.2.3\r\n",
        b"PROXY TCP4 10.1.2.999 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 ::1 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 10.1.2.3 10.0.0.1 1 70000\r\n",
        b"PROXY TCP4 10.1.2.3 10.0.0.1 1 -2\r\n",
        b"PROXY " + b"x" * MAX_V1,
        v2(0x22, 0x11, IPV4),
        v2(0x21, 0x11, b"short"),
        V2_START + b"\x21\x11" + MAX_V2.to_bytes(2, "big"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse(data)


@given(st.binary(max_size=2_000))
def test_any_bytes_end_in_a_header_a_refusal_or_a_bounded_wait(data: bytes) -> None:
    try:
        found = parse(data)
    except ProxyError:
        return
    if found is None:
        assert len(data) < MAX_V2
    else:
        assert found.size <= len(data)
