"""The account key: random, behind the user's password, and what is derived from it.

    password ──argon2id──> wrapping key ──AES-256-GCM──> account key ──HKDF-SHA256──> a key per conversation, date and part

The file `account.key` is JSON: the parameters of argon2id, its salt, the sealed account key, and a check sum, so that a
damaged file is not taken for a wrong password. A change of the password seals the same account key anew.
"""

from __future__ import annotations

import base64
import os
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chat.client.local.folders import sync_folder
from chat.errors import SetupError

FILE: Final = "account.key"
FORMAT: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_WHAT_FOR: Final = b"chat local history, account key"


class WrongPassword(SetupError):
    """The password does not open this history; what it was sealed with does."""


class Cost(NamedTuple):
    """argon2id: passes, memory in KiB, lanes. The default is RFC 9106's second recommendation with one lane: some 0.2 s."""

    passes: int = 3
    memory_kib: int = 65_536
    lanes: int = 1


#: More is not computed: a foreign file must not stop the program for hours, or take all memory.
MOST: Final = Cost(100, 4 << 20, 64)


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """`account.key`. `history` names the history; bytes are base64."""

    format: int
    history: str
    passes: int
    memory_kib: int
    lanes: int
    salt: bytes
    nonce: bytes
    sealed: bytes
    check: str = ""

    def about(self) -> bytes:
        """What is authenticated with the account key."""
        return b"|".join((
            _WHAT_FOR, str(self.format).encode(), self.history.encode(), str(self.passes).encode(),
            str(self.memory_kib).encode(), str(self.lanes).encode(), base64.b64encode(self.salt),
        ))  # fmt: skip

    def sum(self) -> str:
        return sha256(self.about() + b"|" + self.nonce + self.sealed).hexdigest()


class AccountKey:
    """The key of one history, in memory."""

    def __init__(self, history: str, key: bytes) -> None:
        self.history = history
        self._key = key

    def derive(self, *about: str) -> AESGCM:
        """The cipher for what is named by `about`, none of which contains a zero byte."""
        info = b"\0".join(part.encode() for part in ("chat local history 1", *about))
        return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self._key))

    def box(self, name: str) -> Box:
        return Box(self.derive("box", name))

    def save(self, folder: Path, password: str, cost: Cost) -> None:
        """Seal it with `password`; replaces what is there in one step, on disk when it returns."""
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(NONCE_BYTES)
        wrapped = Wrapped(
            format=FORMAT, history=self.history, passes=cost.passes, memory_kib=cost.memory_kib, lanes=cost.lanes,
            salt=salt, nonce=nonce, sealed=b"",
        )  # fmt: skip
        sealed = AESGCM(_stretch(password, wrapped)).encrypt(nonce, self._key, wrapped.about())
        wrapped = msgspec.structs.replace(wrapped, sealed=sealed)
        wrapped = msgspec.structs.replace(wrapped, check=wrapped.sum())
        draft = folder / f"{FILE}.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(wrapped)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(folder / FILE)
        sync_folder(folder)


def new_key() -> AccountKey:
    return AccountKey(secrets.token_hex(8), secrets.token_bytes(KEY_BYTES))


def load_key(folder: Path, password: str) -> AccountKey:
    """Raises WrongPassword, SetupError (no such file, damaged, of a later version)."""
    path = folder / FILE
    try:
        wrapped = msgspec.json.decode(path.read_bytes(), type=Wrapped)
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}. Without this file nothing in the folder can be read.") from None
    except msgspec.DecodeError as error:
        raise SetupError(_damaged(path, str(error))) from None
    if wrapped.format != FORMAT:
        raise SetupError(f"{path} has format {wrapped.format}; this version reads {FORMAT}. Use the version that wrote it.")
    if wrapped.check != wrapped.sum():
        raise SetupError(_damaged(path, "its check sum does not fit"))
    cost = (wrapped.passes, wrapped.memory_kib, wrapped.lanes)
    if any(not 0 < asked <= most for asked, most in zip(cost, MOST, strict=True)):
        raise SetupError(f"{path} asks for argon2id with {cost}; at most {tuple(MOST)} is computed")
    try:
        key = AESGCM(_stretch(password, wrapped)).decrypt(wrapped.nonce, wrapped.sealed, wrapped.about())
    except InvalidTag:
        raise WrongPassword(
            f"the password does not open the local history in {folder}: it was sealed with another one, maybe the one"
            " before it was changed"
        ) from None
    return AccountKey(wrapped.history, key)


def _stretch(password: str, wrapped: Wrapped) -> bytes:
    secret = password.encode("utf-8", "surrogatepass")
    return hash_secret_raw(secret, wrapped.salt, wrapped.passes, wrapped.memory_kib, wrapped.lanes, KEY_BYTES, Type.ID)


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged ({why}). Put a copy of it back from a backup; or move the folder away: a new history is begun,"
        " and filled from the server."
    )


class Box:
    """Seals small things that lie elsewhere (the client's store)."""

    MARK: Final = b"\x01"  # no JSON begins with it

    def __init__(self, cipher: AESGCM) -> None:
        self._cipher = cipher

    def seal(self, plain: bytes, about: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return self.MARK + nonce + self._cipher.encrypt(nonce, plain, about)

    def open(self, sealed: bytes, about: bytes) -> bytes | None:
        """None: damaged, or of another history."""
        try:
            return self._cipher.decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], about)
        except (InvalidTag, ValueError):
            return None
