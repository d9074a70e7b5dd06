"""The id of a message: written, read again, and where its records are."""

from __future__ import annotations

import pytest

from chat.message_id import MessageId, id_of, parse_id
from chat.protocol import Message


def test_it_reads_what_it_writes() -> None:
    for one in (MessageId(12, "u34", 20719, 5), MessageId(1, "g7", 0, 0), MessageId(2**52, "u1", 2**48, 2**53 - 1)):
        assert parse_id(str(one)) == one
    assert str(MessageId(12, "u34", 20719, 5)) == "12/u34/20719/5"
    assert parse_id(" 12/u34/20719/5\n") == MessageId(12, "u34", 20719, 5)


@pytest.mark.parametrize(
    "text", ["", "12/u34/20719", "12/34/20719/5", "alice/u34/1/2", "0/u3/1/2", "12/u34/1/-2", "12/u34/1/9007199254740992"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a message id"):
        parse_id(text)


def test_where_its_records_are() -> None:
    assert MessageId(12, "u34", 1, 2).timelines == ("u34", "u12")
    assert MessageId(12, "u12", 1, 2).timelines == ("u12",)
    assert MessageId(12, "g7", 1, 2).timelines == ("g7",)


def test_the_id_of_a_message() -> None:
    def message(**fields: object) -> Message:
        return Message(sender=12, sent_at=1, kind="text", **fields)  # type: ignore[arg-type]

    assert id_of(message(to=34, stream=1, seq=2, text="x")) == MessageId(12, "u34", 1, 2)
    assert id_of(message(group=7, stream=1, seq=2, text="x")) == MessageId(12, "g7", 1, 2)
    assert id_of(message(to=34)) is None
    assert id_of(Message(sender=12, sent_at=1, kind="read", to=34)) is None
