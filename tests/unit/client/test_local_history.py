"""The local history on its disk: order, once, a crash at every byte, harm, keys."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chat.client.local import files
from chat.client.local import history as module
from chat.client.local.files import Appender
from chat.client.local.history import LocalHistory
from chat.client.local.index import Floor
from chat.client.local.keys import Cost, WrongPassword
from chat.client.local.search import step
from chat.errors import SetupError
from chat.protocol import Message, decode_message, encode

CHEAP = Cost(1, 64, 1)
DAY = 86_400_000
NOON = 1_700_000_000_000


def text(n: int, **more) -> Message:
    fields = {
        "sender": 2,
        "to": 1,
        "stream": 7,
        "seq": n,
        "text": f"m{n}",
        "kind": "text",
        "sent_at": NOON + n,
        "pos": n + 1,
    }
    return Message(**fields | more)


@contextmanager
def opened(folder: Path, **more) -> Iterator[LocalHistory]:
    history = LocalHistory.open(folder, **{"password": "password", "cost": CHEAP} | more)
    try:
        yield history
    finally:
        history.close()


def texts(history: LocalHistory, conversation: str = "u2", limit: int = 1_000) -> list[str]:
    """All of a conversation, oldest first."""
    found: list[str] = []
    before = None
    while True:
        page = history.page(conversation, limit, before)
        found += [m.text for m in page.messages]
        before = page.next
        if before is None:
            return found[::-1]


def the_file(folder: Path, number: int = 0, conversation: str = "u2") -> Path:
    return sorted((folder / conversation).glob("*.chat*"))[number]


def named(*numbers: int) -> list[str]:
    return [f"m{n}" for n in numbers]


def test_each_message_once_and_in_order(tmp_path: Path):
    with opened(tmp_path) as history:
        assert history.append([("u2", text(n)) for n in (3, 1, 2, 1)]) == 3
        assert history.append([("u2", text(n, prev=5)) for n in range(5)]) == 2
        assert history.append([("u2", text(2, pos=900))]) == 0, "in the log twice: the same id"
        notice = Message(sender=2, to=1, kind="friend_request", sent_at=NOON + 9, pos=50, text="please")
        read = Message(sender=2, to=1, kind="read", sent_at=NOON + 9, pos=51, extra={"sent_at": 1})
        assert history.append([("u2", notice), ("u2", read), ("u2", notice)]) == 1
        assert texts(history) == [*named(0, 1, 2, 3, 4), "please"]
        page = history.page("u2", 2)
        assert ([m.text for m in page.messages], page.next) == (["please", "m4"], (NOON + 4, 5))
        assert [m.text for m in history.page("u2", 2, page.next).messages] == ["m3", "m2"]
        assert texts(history, limit=1) == texts(history)
        assert history.page("u3", 5).messages == []
        assert [history.has("u2", text(n)) for n in (3, 9)] == [True, False]
    with opened(tmp_path) as history:
        assert texts(history) == [*named(0, 1, 2, 3, 4), "please"]
        assert history.append([("u2", text(4))]) == 0
        assert history.said == []


def test_folders_and_files(tmp_path: Path):
    with opened(tmp_path, limit=2_000) as history:
        history.append([("u2", text(n, sent_at=NOON + DAY * (n % 2))) for n in range(4)])
        history.append([("g7", text(0, to=None, group=7, text="x" * 900, sender=s, stream=s)) for s in range(6)])
        history.append([("g7", text(1, to=None, group=7, text="x" * 5_000))])
        names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.chat")}
        assert names == {
            "u2/2023-11-14.chat", "u2/2023-11-15.chat",
            "g7/2023-11-14.chat", "g7/2023-11-14.1.chat", "g7/2023-11-14.2.chat", "g7/2023-11-14.3.chat",
            "g7/2023-11-14.4.chat", "g7/2023-11-14.5.chat", "g7/2023-11-14.6.chat",
        }  # fmt: skip
        assert len(texts(history, "g7")) == 7
    with opened(tmp_path, limit=2_000) as history:
        assert texts(history) == named(0, 2, 1, 3)
        assert len(texts(history, "g7")) == 7
        assert history.conversations() == ["u2", "g7"]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"x" * 16 not in written
    assert b'"text"' not in written


def test_a_crash_at_every_byte_of_the_last_record(tmp_path: Path):
    with opened(tmp_path) as history:
        history.append([("u2", text(n)) for n in range(3)])
        path = the_file(tmp_path)
        before = path.stat().st_size
        marks = history.mark
    index = (tmp_path / module.INDEX).read_bytes()
    with opened(tmp_path) as history:
        history.append([("u2", text(3, text="the last"))])
    whole = path.read_bytes()
    for end in range(before, len(whole) + 1):
        (tmp_path / module.INDEX).write_bytes(index)  # committed after the file: not come to
        path.write_bytes(whole[:end])
        with opened(tmp_path) as history:
            last = ["the last"] if end == len(whole) else []
            assert texts(history) == named(0, 1, 2) + last
            assert [s.loss for s in history.said] == ([] if end in (before, len(whole)) else [False]), end
            assert history.covers(marks)
            history.append([("u2", text(3, text="the last")), ("u2", text(4))])
            assert texts(history) == [*named(0, 1, 2), "the last", "m4"]
        with opened(tmp_path) as history:
            assert texts(history) == [*named(0, 1, 2), "the last", "m4"]
            assert history.said == []


def test_a_crash_at_every_byte_of_the_first_record(tmp_path: Path):
    with opened(tmp_path) as history:
        history.append([])
    index = (tmp_path / module.INDEX).read_bytes()
    with opened(tmp_path) as history:
        history.append([("u2", text(0))])
    path = the_file(tmp_path)
    whole = path.read_bytes()
    for end in range(len(whole)):
        (tmp_path / module.INDEX).write_bytes(index)
        path.write_bytes(whole[:end])
        with opened(tmp_path) as history:
            assert texts(history) == []
            history.append([("u2", text(0))])
            assert not any(s.loss for s in history.said)
        with opened(tmp_path) as history:
            assert texts(history) == named(0)


def test_the_index_is_made_anew(tmp_path: Path):
    with opened(tmp_path, limit=1_000) as history:
        history.append([("u2", text(n, sent_at=NOON + n * DAY // 4)) for n in range(20)])
    for harm in (b"", b"no database at all, but something else" * 100, None):
        if harm is None:
            (tmp_path / module.INDEX).unlink()
        else:
            (tmp_path / module.INDEX).write_bytes(harm)
        with opened(tmp_path, limit=1_000) as history:
            assert texts(history) == named(*range(20))
            assert history.append([("u2", text(n)) for n in range(20)]) == 0


def parts(path: Path) -> list[bytes]:
    """The head of a file, then its records."""
    data, found, at = path.read_bytes(), [], 8
    while at < len(data):
        length = 32 + int.from_bytes(data[at + 4 : at + 8], "big")
        found.append(data[at : at + length])
        at += length
    return [data[:8], *found]


def swapped(p: list[bytes]) -> list[bytes]:
    return [*p[:2], p[3], p[2], *p[4:]]


def cut_out(p: list[bytes]) -> list[bytes]:
    return [*p[:2], *p[3:]]


def repeated(p: list[bytes]) -> list[bytes]:
    return [*p[:3], p[2], *p[3:]]


def a_bit(p: list[bytes]) -> list[bytes]:
    return [*p[:2], p[2][:40] + bytes([p[2][40] ^ 1]) + p[2][41:], *p[3:]]


def a_length(p: list[bytes]) -> list[bytes]:
    return [*p[:2], p[2][:4] + b"\x00\x1f\xff\xff" + p[2][8:], *p[3:]]


@pytest.mark.parametrize(
    ("harm", "left", "said"),
    [
        (swapped, (0, 1, 2, 3, 4), "out of its place"),
        (cut_out, (0, 2, 3, 4), "missing"),
        (repeated, (0, 1, 2, 3, 4), "a second time"),
        (a_bit, (0, 2, 3, 4), "damaged"),
        (a_length, (0, 2, 3, 4), "damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("indexed", [True, False])
def test_harm_is_noticed_and_costs_itself(tmp_path: Path, harm, left: tuple[int, ...], said: str, indexed: bool):
    with opened(tmp_path) as history:
        history.append([("u2", text(n)) for n in range(5)])
        history.put_floor("u2", Floor(0, 0, None))
        assert history.page("u2", 5).whole
    path = the_file(tmp_path)
    path.write_bytes(b"".join(harm(parts(path))))
    if not indexed:
        (tmp_path / module.INDEX).unlink()
    with opened(tmp_path) as history:
        assert texts(history) == named(*left)
        assert any(said in s.text and s.loss for s in history.said), history.said
        assert not history.page("u2", 5).whole, "the server is asked again"
        history.append([("u2", text(n)) for n in range(6)])
        assert texts(history) == named(*range(6))
    with opened(tmp_path) as history:
        assert texts(history) == named(*range(6))
        assert history.append([("u2", text(n)) for n in range(6)]) == 0


def test_a_record_of_a_copy_with_the_same_number_is_noticed(tmp_path: Path):
    with opened(tmp_path) as history:
        history.append([("u2", text(0)), ("u2", text(1))])
    copied = the_file(tmp_path).read_bytes(), (tmp_path / module.INDEX).read_bytes()
    with opened(tmp_path) as history:
        history.append([("u2", text(2, text="in the copy"))])
    other = parts(the_file(tmp_path))[3]
    the_file(tmp_path).write_bytes(copied[0])
    (tmp_path / module.INDEX).write_bytes(copied[1])
    with opened(tmp_path) as history:
        history.append([("u2", text(2)), ("u2", text(3))])
    mixed = parts(the_file(tmp_path))
    assert mixed[3][20:32] != other[20:32], "the nonce of the same place is another"
    the_file(tmp_path).write_bytes(b"".join([*mixed[:3], other, mixed[4]]))
    (tmp_path / module.INDEX).unlink()
    with opened(tmp_path) as history:
        assert texts(history) == [*named(0, 1), "in the copy", "m3"]
        assert ["is not the one that was there" in s.text for s in history.said] == [True]


def test_a_file_of_another_key_or_day_is_kept_aside(tmp_path: Path):
    with opened(tmp_path / "a") as history:
        history.append([("u2", text(n)) for n in range(3)])
        history.append([("u3", text(0, sender=3))])
    moved = the_file(tmp_path / "a").rename(tmp_path / "a" / "u3" / "2023-11-13.chat")
    with opened(tmp_path / "a") as history:
        assert texts(history) == []
        assert texts(history, "u3") == named(0)
        assert [s.text.split(": ")[1].split(";")[0] for s in history.said] == ["it is gone", "nothing in it can be read"]
    assert moved.with_name("2023-11-13.chat.unreadable").exists()


def test_the_wrong_password_and_a_new_one(tmp_path: Path):
    with opened(tmp_path, password="before the log-in was refused"):
        pass
    with opened(tmp_path, password="first") as history:  # nothing was in it
        history.append([("u2", text(0))])
    with pytest.raises(WrongPassword), opened(tmp_path, password="second"):
        pass
    sealed = the_file(tmp_path).read_bytes()
    with opened(tmp_path, password="first") as history:
        with pytest.raises(WrongPassword):
            history.change_password("no", "second", CHEAP)
        history.change_password("first", "second", CHEAP)
        history.append([("u2", text(1))])
    with pytest.raises(WrongPassword), opened(tmp_path, password="first"):
        pass
    with opened(tmp_path, password="second") as history:
        assert texts(history) == named(0, 1)
    assert the_file(tmp_path).read_bytes().startswith(sealed), "only the key was sealed anew"
    (tmp_path / "account.key").unlink()
    with pytest.raises(SetupError, match="missing"), opened(tmp_path, password="second"):
        pass


def test_two_at_a_time_are_refused(tmp_path: Path):
    with opened(tmp_path), pytest.raises(SetupError, match="another client"), opened(tmp_path):
        pass
    with opened(tmp_path):
        pass


@pytest.mark.parametrize("where", ["write", "sync", "index"])
def test_a_disk_that_refuses_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str):
    with opened(tmp_path) as history:
        history.append([("u2", text(0))])
        size = the_file(tmp_path).stat().st_size

        def refuse(self, *args):
            if where == "write":
                os.pwrite(self._descriptor(args[0]), args[2][:20], args[1])
            raise OSError(28, "no space left on device") if where != "index" else sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(*((module.Index, "counted") if where == "index" else (Appender, where)), refuse)
            with pytest.raises((OSError, sqlite3.Error)):
                history.append([("u2", text(1)), ("g7", text(0, to=None, group=7))])
        assert the_file(tmp_path).stat().st_size == size
        assert texts(history) == named(0)
        assert history.append([("u2", text(1)), ("g7", text(0, to=None, group=7))]) == 2
        assert (texts(history), texts(history, "g7")) == (named(0, 1), named(0))
    with opened(tmp_path) as history:
        assert (texts(history), texts(history, "g7"), history.said) == (named(0, 1), named(0), [])


def test_floors(tmp_path: Path):
    with opened(tmp_path) as history:
        history.append([("u2", text(n)) for n in range(10)])
        assert not history.page("u2", 5).whole, "nothing is known of the server"
        history.put_floor("u2", Floor(NOON + 5, 6, "cursor"))
        assert history.page("u2", 5).whole
        assert not history.page("u2", 6).whole
        mark = history.mark
        history.append([], ["g7"])
        assert history.floor("u2") == Floor(NOON + 5, 6, "cursor")
        history.append([], ["u1"])
        assert history.floor("u2") is None
        assert history.covers(mark)
        assert history.mark != mark
        later = history.mark
    with opened(tmp_path) as history:
        assert history.covers(later)
        name, count = later.split(":")
        assert not history.covers(f"{name}:{int(count) + 1}"), "restored from a copy"
        assert not history.covers(f"other:{count}")
        assert not history.covers(None)


def test_search_goes_through_all_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chat.client.local.search.STEP", 7)
    with opened(tmp_path) as history:
        history.append([("u2", text(n, text=f"Straße {n} 中文 👍" if n % 3 else "no")) for n in range(30)])
        history.append([("g7", text(n, to=None, group=7, text=f"STRASSE {n}", pos=100 + n)) for n in range(10)])

        def find(what: str, conversation: str | None) -> list[str]:
            found, before = [], None
            while True:
                hits, before = step(history, what.casefold(), conversation, before)
                found += [hit.message.text for hit in hits]
                if before is None:
                    return found

        assert find("strasse", "u2") == [f"Straße {n} 中文 👍" for n in reversed(range(30)) if n % 3]
        assert len(find("straße", None)) == 20 + 10
        assert len(find("中文", None)) == 20
        assert find("nothing like it", None) == []


def test_an_independent_reader_reads_a_file_by_the_document(tmp_path: Path):
    """As docs/local-history.md says, with nothing of the program."""
    import base64
    import json
    import struct

    from argon2.low_level import Type, hash_secret_raw
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    with opened(tmp_path) as history:
        history.append([("u2", text(n)) for n in range(3)])
    about = json.loads((tmp_path / "account.key").read_text())
    salt, nonce, sealed = (base64.b64decode(about[name]) for name in ("salt", "nonce", "sealed"))
    wrapping = hash_secret_raw(b"password", salt, about["passes"], about["memory_kib"], about["lanes"], 32, Type.ID)
    bound = "|".join(
        ["chat local history, account key", *(str(about[n]) for n in ("format", "history", "passes", "memory_kib", "lanes"))]
    )
    account = AESGCM(wrapping).decrypt(nonce, sealed, f"{bound}|{about['salt']}".encode())
    info = b"chat local history 1\0file\0u2\0" + b"2023-11-14\0" + b"0"
    cipher = AESGCM(HKDF(SHA256(), 32, None, info).derive(account))
    data, at, found, link = the_file(tmp_path).read_bytes(), 8, [], bytes(8)
    while at < len(data):
        marker, length, number, before, nonce = struct.unpack_from(">4sII8s12s", data, at)
        assert (marker, number, before) == (b"\xc5\x1e\xa1\x0d", len(found), link)
        body = data[at + 32 : at + 32 + length]
        found.append(decode_message(cipher.decrypt(nonce, body, data[at : at + 20])))
        at, link = at + 32 + length, body[-8:]
    assert found == [decode_message(encode(text(n))) for n in range(3)]
    assert files.BEGIN.offset == 8
