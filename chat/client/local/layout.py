"""One record of a file: how it is sealed, and how it is found again behind damage. Pure.

    file     "CHATHST1", then records
    record   marker 4 | length 4 | number 4 | link 8 | nonce 12 | ciphertext and tag (length bytes)

Numbers are big-endian. `number` counts the records of the file from 0; `link` is the end of the tag of the record before
(zeros for the first). Everything before the nonce is authenticated with the text, and the key is that of the file, so a
record opens at its place alone to say which one it is: one that was swapped, repeated or put in from another file is
noticed by its number or its key, one that was cut out by the number that is missing, one that was replaced by an older
one with the same number (from a copy) by the link of the next.

The nonce is random, 96 bits: nothing that has to be remembered, so neither a crash, a restored copy nor a second process
makes one repeat. A file has fewer than 2^23 records, so two are alike with a probability below 2^-50.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC: Final = b"CHATHST1"
MARKER: Final = b"\xc5\x1e\xa1\x0d"
TAG: Final = 16
LINK: Final = 8
NO_LINK: Final = bytes(LINK)
LARGEST: Final = 2 << 20  # bytes of text and tag; a frame has at most 1 MiB
_HEAD: Final = struct.Struct(">4sII8s12s")
HEAD: Final = _HEAD.size
_BOUND: Final = HEAD - 12  # what is authenticated


class Record(NamedTuple):
    """A record that opened. `end`: where the next one begins. `link`: what that one must name."""

    offset: int
    end: int
    number: int
    names: bytes  # its own link: the record before
    link: bytes
    text: bytes


class Damaged(NamedTuple):
    """Bytes between two records, or before the end, that open as nothing."""

    offset: int
    end: int


class Data(Protocol):
    """bytes, or a mapped file."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> bytes: ...

    def find(self, what: bytes, start: int, /) -> int: ...


def seal(cipher: AESGCM, number: int, link: bytes, nonce: bytes, text: bytes) -> bytes:
    """The whole record."""
    head = _HEAD.pack(MARKER, len(text) + TAG, number, link, nonce)
    return head + cipher.encrypt(nonce, text, head[:_BOUND])


def link_of(record: bytes) -> bytes:
    """What the record behind this one names."""
    return record[-LINK:]


def open_at(cipher: AESGCM, data: Data, offset: int) -> Record | None:
    """The record that begins at `offset`; None where none does, or it is damaged or not whole."""
    head = data[offset : offset + HEAD]
    if len(head) < HEAD:
        return None
    marker, length, number, names, nonce = _HEAD.unpack(head)
    end = offset + HEAD + length
    if marker != MARKER or not TAG <= length <= LARGEST or end > len(data):
        return None
    sealed = data[offset + HEAD : end]
    try:
        text = cipher.decrypt(nonce, sealed, head[:_BOUND])
    except InvalidTag:
        return None
    return Record(offset, end, number, names, sealed[-LINK:], text)


def begins(data: Data, offset: int) -> bool:
    """Could a record that is not whole begin there: the file ends before its head, or before the end that it states?"""
    head = data[offset : offset + HEAD]
    if len(head) < HEAD:
        return head[:4] == MARKER[: len(head)]
    marker, length, *_ = _HEAD.unpack(head)
    return bool(marker == MARKER and TAG <= length <= LARGEST and offset + HEAD + length > len(data))


def scan(cipher: AESGCM, data: Data, offset: int) -> Iterator[Record | Damaged]:
    """All records from `offset` on. What does not open is looked through for the next one that does."""
    while offset < len(data):
        found = open_at(cipher, data, offset)
        if found is None:
            found = _next(cipher, data, offset + 1)
            yield Damaged(offset, len(data) if found is None else found.offset)
            if found is None:
                return
        yield found
        offset = found.end


def _next(cipher: AESGCM, data: Data, offset: int) -> Record | None:
    while (offset := data.find(MARKER, offset)) >= 0:
        found = open_at(cipher, data, offset)
        if found is not None:
            return found
        offset += 1
    return None
