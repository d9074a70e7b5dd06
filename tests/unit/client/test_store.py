"""What survives a restart."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from chat.client import store as store_module
from chat.client.outbox import Changes, Entry, Failed
from chat.client.store import Store, path_of
from chat.errors import SetupError
from chat.ordering import ReaderState
from chat.protocol import Message


def message(seq: int, pos: int, **more) -> Message:
    fields = {
        "sender": 2,
        "to": 1,
        "stream": 7,
        "seq": seq,
        "text": f"m{seq}",
        "kind": "text",
        "sent_at": 1000 + pos,
        "pos": pos,
    }
    return Message(**fields | more)


def reopened(store: Store, path: Path) -> Store:
    store.close()
    return Store(path)


def test_a_device_keeps_its_id_and_facts(tmp_path: Path):
    path = tmp_path / "server" / "alice.sqlite"
    store = Store(path)
    device = store.device
    assert 8 <= len(device) <= 64
    store.put("token", "t")
    store.put_names({"u34": "bob"})
    store = reopened(store, path)
    assert (store.device, store.get("token"), store.names()) == (device, "t", {"u34": "bob"})
    store.put("token", None)
    assert store.get("token") is None
    assert path.stat().st_mode & 0o077 == 0
    assert Store(":memory:").device != device


def test_messages_and_states_go_together(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    store = Store(path)
    new = store.record([("u1", message(0, 5)), ("u1", message(1, 6))], {"u1": ReaderState(6, {(2, "u2", 7): 2}, True)}, {})
    assert [kept.message.text for kept in new] == ["m0", "m1"]
    store.record([("u1", message(2, 9))], {"u1": ReaderState(9, {(2, "u2", 7): 3})}, {})
    store = reopened(store, path)
    assert store.readers() == ({"u1": ReaderState(9, {(2, "u2", 7): 3}, False)}, {"u1"})
    assert [k.message.text for k in store.received_after(new[0].number)] == ["m1", "m2"]
    assert [m.text for m in store.newest("u2", 2)] == ["m1", "m2"]


def test_a_message_is_kept_once():
    store = Store(":memory:")
    assert len(store.record([("u1", message(0, 5)), ("u1", message(0, 8))], {}, {})) == 1
    assert store.record([("u1", message(0, 5))], {}, {}) == []
    notice = Message(sender=2, to=1, kind="friend_request", sent_at=1, pos=10)
    assert len(store.record([("u1", notice), ("u1", notice)], {}, {})) == 1


def test_marks_are_passed_on_but_not_kept():
    store = Store(":memory:")
    [kept] = store.record([("u1", Message(sender=2, to=1, kind="read", sent_at=1, pos=3, extra={"sent_at": 1}))], {}, {})
    assert kept.number == 0
    assert store.received_after(0) == []


def test_a_reset_forgets_the_streams():
    store = Store(":memory:")
    store.record([], {"g7": ReaderState(5, {(2, "g7", 7): 3, (3, "g7", 8): 1})}, {})
    store.record([], {}, {"g7": ReaderState(9, {}, True)})
    assert store.readers() == ({"g7": ReaderState(9, {}, True)}, set())


def test_a_stream_that_rests_for_long_is_forgotten(tmp_path: Path):
    path, day = tmp_path / "a.sqlite", 86_400_000
    store = Store(path)
    store.record([], {"u1": ReaderState(1, {(5, "u5", 1): 9})}, {})  # from heads: when it was written is not known
    store.record([("u1", message(0, 1))], {"u1": ReaderState(1, {(2, "u2", 7): 1})}, {})
    store.record([("g7", message(0, 2, to=None, group=7))], {"g7": ReaderState(2, {(2, "g7", 7): 1})}, {})
    for later, streams in ((day * 399, {1, 7, 8}), (day * 401, {1, 8})):
        new = message(0, 3, stream=8, sent_at=1000 + later)
        store.record([("u1", new)], {"u1": ReaderState(3, {(2, "u2", 8): 1})}, {})
        store = reopened(store, path)
        states, _ = store.readers()
        assert {key[2] for key in states["u1"].expected} == streams
        assert states["g7"].expected == {(2, "g7", 7): 1}, "by its own timeline"


def test_a_file_from_before_streams_had_times(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    store = Store(path)
    store.record([("u1", message(0, 1))], {"u1": ReaderState(1, {(2, "u2", 7): 1})}, {})
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE expected DROP COLUMN at")
    db.close()
    store = Store(path)
    store.record([("u1", message(1, 2))], {"u1": ReaderState(2, {(2, "u2", 7): 2})}, {})
    assert reopened(store, path).readers()[0] == {"u1": ReaderState(2, {(2, "u2", 7): 2})}


def test_a_failed_transaction_changes_nothing():
    store = Store(":memory:")
    with pytest.raises(sqlite3.Error):
        store.record([("u1", message(0, 5))], {"u1": ReaderState(object(), {})}, {})
    assert store.received_after(0) == []
    assert store.readers() == ({}, set())


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "KEEP", 100)
    store = Store(":memory:")
    for start in range(0, 1_500, 50):
        store.record([("u1", message(n, n + 1)) for n in range(start, start + 50)], {}, {})
    kept = store.received_after(0)
    assert 100 <= len(kept) <= 100 + store_module._PRUNE_EVERY
    assert kept[-1].message.seq == 1_499


def test_the_outbox(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    store = Store(path)
    one, two = Entry(1, "u2", 9, 0, "one", 5, {"k": [1]}, 4, True), Entry(2, "g7", 9, 0, "two", 6)
    store.put_entries(Changes(put=(one, two)))
    store = reopened(store, path)
    assert store.outbox() == [one, two]
    again = two._replace(stream=10)
    store.put_entries(Changes(put=(again,), failed=(Failed(one, "blocked", True),)))
    assert store.outbox() == [again]
    store.put_entries(Changes(accepted=(again,)))
    assert store.outbox() == []


def test_two_clients_of_one_device_are_refused(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    store = Store(path)
    with pytest.raises(SetupError, match="another client"):
        Store(path)
    store.close()
    Store(path).close()


def test_no_name_leads_out_of_the_folder(tmp_path: Path):
    assert path_of(tmp_path, "../../etc:1", "alice").parent.parent == tmp_path
