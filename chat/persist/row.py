"""A stored record, as the reads of the record give it."""

from __future__ import annotations

from typing import NamedTuple

from chat.records import splice_pos


class Row(NamedTuple):
    """A record of a timeline. `stream` and `seq` are None where the kind is not text."""

    position: int
    sent_at: int
    kind: str
    sender: int
    stream: int | None
    seq: int | None
    receipt: int
    body: bytes

    def frame(self) -> bytes:
        """As it appears in answers."""
        return splice_pos(self.body, self.position)
