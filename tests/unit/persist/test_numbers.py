"""Which numbers of users and groups the log proves to have been given out."""

from __future__ import annotations

from chat.persist.numbers import LEAD, Highest, highest
from chat.persist.parse import Parsed, parse_messages
from chat.protocol import Message
from chat.records import Consumed, Receipts, TopicPartition, message_records

PLACE = TopicPartition("chat.messages", 0)


def parsed(*messages: Message, receipts: tuple[Receipts, ...] = ()) -> Parsed:
    found = Parsed([], list(receipts), [])
    for at, message in enumerate(messages):
        timeline = f"g{message.group}" if message.group else f"u{message.to}"
        ((_, record),) = message_records(message, [timeline])
        parse_messages(found, PLACE, 0, [Consumed(at, 1, record.key, record.value, record.headers)])
    assert not found.dead
    return found


def text(sender: int, to: int | None = None, group: int | None = None) -> Message:
    return Message(sender=sender, to=to, group=group, stream=1, seq=0, sent_at=1, kind="text", text="x")


def test_senders_recipients_groups_and_who_acknowledges() -> None:
    acked = Receipts(user=12, device="device-1", acks={"u12": 3})
    assert highest(parsed(text(3, to=9), text(7, group=5), receipts=(acked,)), Highest()) == Highest(12, 5)
    assert highest(parsed(text(3, to=9)), Highest()) == Highest(9, 0)
    assert highest(parsed(), Highest(4, 2)) == Highest(4, 2)
    assert highest(parsed(text(3, to=9)), Highest(400, 200)) == Highest(400, 200)


def test_a_recipient_that_cannot_be_is_no_proof() -> None:
    """While MySQL is away an edge takes the number as it is given."""
    assert highest(parsed(text(3, to=2**53 - 1), text(4, to=5)), Highest()) == Highest(4, 0)
    assert highest(parsed(text(3, to=LEAD + 10)), Highest(20)) == Highest(LEAD + 10, 0)
    assert highest(parsed(text(2**52, to=5)), Highest()) == Highest(2**52, 0)
    assert highest(parsed(text(3, group=2**53 - 1)), Highest(9, 9)) == Highest(9, 9)
