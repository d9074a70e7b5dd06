"""Who the load logs in as: names, tokens and groups, kept in a file so that a second run hashes no password.

The names carry a random tag and the password is a random secret, both of the file: nobody can log in as a load user
without it. The file is written for its owner alone, by replacing it whole.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from chat.errors import SetupError

USERS_FILE: Final = "load-users.json"


class Account(Struct):
    name: str
    device: str
    user: int = 0  # 0: not registered yet
    token: str = ""  # "": it has to log in with the password


class Accounts(Struct):
    tag: str
    secret: str
    people: list[Account]
    groups: dict[str, list[int]] = {}  # size → groups of the first so many people

    def first(self, number: int) -> list[Account]:
        """The first `number` accounts; names for what is missing."""
        for at in range(len(self.people), number):
            self.people.append(Account(name=f"load-{self.tag}-{at}", device=f"load-device-{at:06d}"))
        return self.people[:number]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self))
        new.replace(path)


def load_accounts(path: Path) -> Accounts:
    """Those of the file, or new ones where there is none. Raises SetupError for a file that is not one of these."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Accounts)
    except FileNotFoundError:
        return Accounts(tag=secrets.token_hex(3), secret=secrets.token_urlsafe(24), people=[])
    except (msgspec.DecodeError, OSError) as error:
        raise SetupError(f"{path} is not a users file of `chat load` ({error}); name another with --users-file") from error
