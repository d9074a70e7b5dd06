"""What a device did with hand-made sequences: duplicates, gaps, holes, a group joined on the way."""

from __future__ import annotations

from collections.abc import Sequence

from chat.protocol import Message, encode
from chat.records import Consumed, TopicPartition, notice
from chat.tools.replay.explain.device import Device, Said
from chat.tools.replay.explain.track import Track

ME = 2
PLACE = TopicPartition("chat.messages", 0)
Made = list[tuple[int, TopicPartition, Consumed]]


def _records(messages: Sequence[tuple[int, Message]], key: str = "u2") -> Made:
    """(offset, message)."""
    return [(0, PLACE, Consumed(offset, m.sent_at, key.encode(), encode(m), ())) for offset, m in messages]


def _text(seq: int, at: int, *, stream: int = 5, group: int | None = None) -> Message:
    to = ME if group is None else None
    return Message(sender=1, to=to, group=group, stream=stream, seq=seq, sent_at=at, kind="text", text=f"text {seq}")


def _all(device: Device, tracks: dict[str, Track], order: Sequence[tuple[str, int]] = ()) -> list[Said]:
    """In the order given, (timeline, number of the record), or the own timeline from its beginning."""
    said = device.log_in(0)
    for timeline, number in order or [("u2", n) for n in range(len(tracks["u2"].records))]:
        said += device.record(timeline, tracks[timeline].records[number])
    return said + device.end(1_000_000)


def _did(said: Sequence[Said], timeline: str = "u2") -> list[tuple[int, str]]:
    return [(s.pos, s.did) for s in said if s.pos and s.timeline == timeline]


def test_in_order_a_duplicate_in_the_log_is_dropped() -> None:
    records = _records([(0, _text(0, 10)), (1, _text(1, 20)), (2, _text(0, 30)), (5, _text(2, 40))])
    tracks = {"u2": Track("u2", ME, records, begin=0, heads={}, stays=None)}
    said = _all(Device(ME, tracks), tracks)
    assert _did(said) == [(1, "shown"), (2, "shown"), (3, "duplicate"), (6, "shown")]
    duplicate = next(s for s in said if s.did == "duplicate")
    assert duplicate.detail == "of 1: seq 0, expected 2"
    assert duplicate.id == "1/u2/5/0"


def test_a_duplicate_of_before_the_range() -> None:
    records = _records([(9, _text(3, 10)), (10, _text(4, 20))])
    tracks = {"u2": Track("u2", ME, records, begin=9, heads={(1, "u1", 5): 4}, stays=None)}
    said = _all(Device(ME, tracks), tracks)
    assert _did(said) == [(10, "duplicate"), (11, "shown")]
    assert "a copy before the range" in said[2].detail


def test_a_gap_waits_is_fetched_and_only_a_void_is_skipped() -> None:
    records = _records([(0, _text(0, 10)), (1, _text(3, 20)), (2, _text(1, 30)), (3, _text(4, 9_000))])
    tracks = {"u2": Track("u2", ME, records, begin=0, heads={}, stays=None)}
    said = _all(Device(ME, tracks), tracks)
    steps = [(s.pos, s.did, s.detail) for s in said if s.did not in ("on line", "sync")]
    # By persist, seq 1 after 3 is a duplicate and no row; live it is taken by the chain like every record.
    assert steps == [
        (1, "shown", ""),
        (2, "waits", "for stream 5 seq 1"),
        (3, "shown", ""),
        (0, "fetch", "1 u1 stream 5 seq 2: 0 in the log"),
        (0, "void", "seq 2 of stream 5 is not in the log: skipped"),
        (2, "shown", "it waited"),
        (4, "shown", ""),
    ]


def test_what_still_waits_at_the_end_is_told() -> None:
    records = _records([(0, _text(2, 10))])
    tracks = {"u2": Track("u2", ME, records, begin=0, heads={(1, "u1", 5): 0}, stays=None)}
    device = Device(ME, tracks)
    said = device.log_in(0) + device.record("u2", tracks["u2"].records[0]) + device.end(100)
    assert [s.did for s in said if s.did == "waits"] == ["waits", "waits"]
    assert "1 still waits for seq 0, it has 2" in said[-1].detail


def _delivered(track: Track, number: int, prev: int | None) -> Message:
    return track.delivery(track.records[number], prev)


def test_deliveries_that_are_lost_doubled_or_late() -> None:
    records = _records([(n, _text(n, 10 * (n + 1))) for n in range(4)])
    track = Track("u2", ME, records, begin=0, heads={}, stays=None)
    device = Device(ME, {"u2": track})
    device.log_in(0)
    first = device.delivery(10, "u2", _delivered(track, 0, 0))
    assert _did(first) == [(1, "shown")]
    again = device.delivery(11, "u2", _delivered(track, 0, 0))
    assert [(s.did, s.detail) for s in again] == [("known", "dropped: it has everything up to 1, it came before")]
    # 2 is lost: 3 does not chain, and the sync brings both
    hole = device.delivery(31, "u2", _delivered(track, 2, 2))
    assert [(s.pos, s.did, s.by) for s in hole] == [
        (3, "remembered", "delivery"),
        (0, "sync", ""),
        (2, "shown", "sync"),
        (3, "shown", "sync"),
    ]
    assert hole[0].detail == "comes after 2, but known is 1"
    late = device.delivery(32, "u2", _delivered(track, 1, 1))
    assert [s.did for s in late] == ["known"]
    missed = [device.missed("u2", r) for r in track.records]
    assert [m.pos for m in missed if m is not None] == [4]


def test_a_router_that_does_not_know_prev() -> None:
    records = _records([(0, _text(0, 10))])
    track = Track("u2", ME, records, begin=0, heads={}, stays=None)
    device = Device(ME, {"u2": track})
    device.log_in(0)
    said = device.delivery(10, "u2", _delivered(track, 0, None))
    assert [(s.did, s.by) for s in said if s.pos] == [("remembered", "delivery"), ("shown", "sync")]


def test_a_group_joined_on_the_way_begins_with_the_stream_heads() -> None:
    joined = notice("group_joined", sender=1, to=ME, sent_at=50, extra={"user": ME, "group": 7, "name": "g"})
    own = Track("u2", ME, _records([(0, joined)]), begin=0, heads={}, stays=None)
    in_group = [(n, _text(n + 40, 10 * n + 12, group=7)) for n in range(6)]
    group = Track("g7", ME, _records(in_group, "g7"), begin=0, heads={}, stays=[(4, None)])
    tracks = {"u2": own, "g7": group}
    order = [("g7", 0), ("g7", 1), ("g7", 2), ("g7", 3), ("u2", 0), ("g7", 4), ("g7", 5)]
    said = _all(Device(ME, tracks), tracks, order)
    assert [s.pos for s in said if s.timeline == "g7" and s.did == "shown"] == [4, 5, 6]
    assert "begins" in [s.did for s in said]


def test_a_dead_record_is_told() -> None:
    records: Made = [(0, PLACE, Consumed(0, 10, b"u2", b"{}", ()))]
    tracks = {"u2": Track("u2", ME, records, begin=0, heads={}, stays=None)}
    said = _all(Device(ME, tracks), tracks)
    assert _did(said) == [(1, "dead")]


def test_a_new_device_begins_with_the_stream_heads() -> None:
    records = _records([(7, _text(12, 10)), (8, _text(13, 20))])
    tracks = {"u2": Track("u2", ME, records, begin=7, heads={(1, "u1", 5): 12}, stays=None)}
    device = Device(ME, tracks, fresh=True)
    said = device.log_in(0)
    for number in range(2):
        said += device.record("u2", tracks["u2"].records[number])
    assert [s.pos for s in said if s.did == "shown"] == [8, 9]
