"""A history folder is opened: by one program at a time, with its key, and an index that fits."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from chat.client.local import folders
from chat.client.local.index import Index
from chat.client.local.keys import FILE, AccountKey, Cost, WrongPassword, load_key, new_key
from chat.errors import SetupError

INDEX: Final = "index.sqlite"


def lock_folder(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SetupError(f"{folder} is in use. Is another client of this account running? Use another --state.") from None
    return descriptor


def open_key(folder: Path, password: str, cost: Cost) -> AccountKey:
    if (folder / FILE).exists():
        try:
            return load_key(folder, password)
        except WrongPassword:
            if not _empty(folder):
                raise
    elif not _empty(folder):
        raise SetupError(
            f"{folder / FILE} is missing, and without it the files there cannot be read. Put it back from a backup; or move"
            " the folder away: a new history is begun, and filled from the server."
        )
    _drop_index(folder)
    key = new_key()
    key.save(folder, password, cost)
    return key


def _empty(folder: Path) -> bool:
    return not any(folders.files(folder, conversation) for conversation in folders.conversations(folder))


def _drop_index(folder: Path) -> None:
    for part in ("", "-wal", "-shm"):
        (folder / f"{INDEX}{part}").unlink(missing_ok=True)


def open_index(folder: Path, key: AccountKey) -> tuple[Index, bool]:
    """And whether it had to be thrown away."""
    path = folder / INDEX
    rebuilt = False
    try:
        index = Index(path)
    except sqlite3.DatabaseError:
        _drop_index(folder)
        index, rebuilt = Index(path), True
    if index.fact("history") not in (None, key.history):
        index.close()
        raise SetupError(
            f"{folder / FILE} is the key of another history than the one in this folder. Put the right one back from a"
            " backup; or move the folder away: a new history is begun, and filled from the server."
        )
    with index.transaction():
        index.put_fact("history", key.history)
    return index, rebuilt
