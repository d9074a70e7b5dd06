"""The account key behind its password."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat.client.local.keys import FILE, Cost, WrongPassword, load_key, new_key
from chat.errors import SetupError

CHEAP = Cost(1, 64, 1)


def test_the_password_opens_it_and_no_other(tmp_path: Path):
    key = new_key()
    key.save(tmp_path, "correct 中文", CHEAP)
    again = load_key(tmp_path, "correct 中文")
    assert again.history == key.history
    sealed = key.derive("file", "u2", "2026-01-01", "0").encrypt(b"n" * 12, b"text", None)
    assert again.derive("file", "u2", "2026-01-01", "0").decrypt(b"n" * 12, sealed, None) == b"text"
    for wrong in ("correct", "", "correct 中文 "):
        with pytest.raises(WrongPassword, match="sealed with another one"):
            load_key(tmp_path, wrong)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_each_file_has_a_key_of_its_own():
    key = new_key()
    names = [("u2", "2026-01-01", "0"), ("u2", "2026-01-01", "1"), ("u2", "2026-01-02", "0"), ("g2", "2026-01-01", "0")]
    sealed = {key.derive("file", *name).encrypt(b"n" * 12, b"text", None) for name in names}
    assert len(sealed) == len(names)
    assert key.box("store").open(key.box("other").seal(b"text", b""), b"") is None
    assert key.box("store").open(key.box("store").seal(b"text", b"a"), b"b") is None
    assert key.box("store").open(key.box("store").seal(b"text", b"a"), b"a") == b"text"


def test_what_is_damaged_is_not_taken_for_a_wrong_password(tmp_path: Path):
    new_key().save(tmp_path, "password", CHEAP)
    whole = (tmp_path / FILE).read_bytes()
    fields = json.loads(whole)
    for name, value in {"salt": "AAAA", "sealed": fields["sealed"][:-4] + "AAA=", "passes": 2, "history": "x"}.items():
        (tmp_path / FILE).write_text(json.dumps(fields | {name: value}))
        with pytest.raises(SetupError, match="damaged") as caught:
            load_key(tmp_path, "password")
        assert not isinstance(caught.value, WrongPassword)
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SetupError, match="damaged"):
        load_key(tmp_path, "password")
    (tmp_path / FILE).write_text(json.dumps(fields | {"format": 9}))
    with pytest.raises(SetupError, match="format 9"):
        load_key(tmp_path, "password")
    (tmp_path / FILE).unlink()
    with pytest.raises(SetupError, match="nothing in the folder can be read"):
        load_key(tmp_path, "password")


def test_a_foreign_file_does_not_cost_hours(tmp_path: Path):
    new_key().save(tmp_path, "password", Cost(1, 64, 1))
    fields = json.loads((tmp_path / FILE).read_bytes())
    from chat.client.local import keys

    wrapped = keys.msgspec.convert(fields | {"passes": 10**9}, keys.Wrapped)
    (tmp_path / FILE).write_bytes(keys.msgspec.json.encode(keys.msgspec.structs.replace(wrapped, check=wrapped.sum())))
    with pytest.raises(SetupError, match="at most"):
        load_key(tmp_path, "password")
