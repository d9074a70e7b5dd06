"""A record alone: sealed, opened, found again."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chat.client.local.layout import HEAD, MAGIC, NO_LINK, Damaged, Record, begins, link_of, open_at, scan, seal

CIPHER = AESGCM(b"k" * 32)
TEXTS = [b"", b"one", b"two " * 100, b"\xc5\x1e\xa1\x0d in the middle", b"last"]


def a_file(texts: list[bytes] = TEXTS) -> tuple[bytes, list[int]]:
    """And where each record begins, the end behind them."""
    data, link, begin = MAGIC, NO_LINK, []
    for number, text in enumerate(texts):
        record = seal(CIPHER, number, link, bytes([number]) * 12, text)
        begin.append(len(data))
        data, link = data + record, link_of(record)
    return data, [*begin, len(data)]


def found(data: bytes) -> list[Record | Damaged]:
    return list(scan(CIPHER, data, len(MAGIC)))


def test_what_is_sealed_opens():
    data, begin = a_file()
    records = found(data)
    assert [r.text for r in records] == TEXTS
    assert [(r.offset, r.number) for r in records] == [(at, n) for n, at in enumerate(begin[:-1])]
    assert [r.names for r in records] == [NO_LINK, *(r.link for r in records[:-1])]


@pytest.mark.parametrize("which", range(len(TEXTS)))
def test_each_changed_byte_costs_its_record_alone(which: int):
    data, begin = a_file()
    for at in range(begin[which], begin[which + 1], 3):
        harmed = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        seen = found(harmed)
        assert [r.text for r in seen if isinstance(r, Record)] == TEXTS[:which] + TEXTS[which + 1 :]
        assert [(d.offset, d.end) for d in seen if isinstance(d, Damaged)] == [(begin[which], begin[which + 1])]


def test_every_cut_leaves_what_is_before():
    data, begin = a_file()
    for end in range(begin[-2], begin[-1]):
        seen = found(data[:end])
        assert [r.text for r in seen if isinstance(r, Record)] == TEXTS[:-1]
        assert (end == begin[-2]) == all(isinstance(r, Record) for r in seen)
        assert begins(data[:end], begin[-2]) is True


def test_a_record_says_which_one_it_is():
    data, begin = a_file()
    parts = [data[a:b] for a, b in itertools.pairwise(begin)]
    swapped = found(MAGIC + parts[0] + parts[2] + parts[1] + parts[3])
    assert [r.number for r in swapped] == [0, 2, 1, 3]
    assert open_at(AESGCM(b"o" * 32), data, begin[1]) is None, "not with the key of another file"
    longer = bytearray(parts[1])
    longer[8:12] = (7).to_bytes(4, "big")
    assert open_at(CIPHER, bytes(longer), 0) is None, "its number is authenticated"
    assert len(parts[0]) == HEAD + 16
