"""Accounts: register, login, resume, logout, change_password."""

from __future__ import annotations

import random
import secrets

import structlog
import trio

from chat.backoff import Backoff
from chat.edge import login_sql, tokens
from chat.edge.context import Context, Opened, Session
from chat.edge.logins import Banned, Entering, Found, Resuming, entry_of
from chat.errors import BadData, ChatError, Conflict, Goodbye, PartError, Unavailable
from chat.ports import Statement
from chat.protocol import ChangePassword, LoggedIn, Login, Logout, Ok, Register, Registered, Resume
from chat.records import PresenceEvent

log = structlog.get_logger()

NAME_LENGTH = 32
FULL_MS = 30_000  # a device too many comes back after about this
TELLINGS = 5  # the password is changed already: the other edges are told again and again, and the user hears of success
NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


def may_be_name(text: str) -> bool:
    """Could a user be called so?"""
    return 0 < len(text) <= NAME_LENGTH and NAME_LETTERS.issuperset(text)


async def register(context: Context, session: Session, request: Register) -> Registered:
    database = context.services.store
    (taken,) = await database.read([Statement("SELECT 1 FROM users WHERE name = %s", (request.name,))])
    if taken.rows:
        raise ChatError("exists", "the name is taken")
    password = await context.services.passwords.hash(request.password)
    insert = Statement(
        "INSERT INTO users (name, password, created_at) VALUES (%s, %s, %s)", (request.name, password, context.clock.now())
    )
    try:
        (made,) = await database.write([insert])
    except BadData as error:
        if error.duplicate:
            raise ChatError("exists", "the name is taken") from None
        raise
    return Registered(user=made.last_id)


async def login(context: Context, session: Session, request: Login) -> LoggedIn | None:
    _not_twice(session)
    services, asked_at = context.services, trio.current_time()
    stored: tuple[int, str] | None = None
    if may_be_name(request.name):
        (result,) = await services.store.read([Statement("SELECT id, password FROM users WHERE name = %s", (request.name,))])
        stored = result.rows[0] if result.rows else None
    if not await services.passwords.matches(stored and stored[1], request.password) or stored is None:
        raise ChatError("bad_credentials", "wrong name or password")
    user, password = stored
    try:
        found: Found = await services.logins.find(Entering(user, request.device))
    except Banned:
        session.close(Goodbye.BANNED, "banned")
        return None
    if _full(context, session, found):
        return None
    token = tokens.new_token()
    token_hash = tokens.hash_of(token)
    now = context.clock.now()
    expires_at = now + services.tokens.life_ms
    found = found._replace(expires_at=expires_at)
    try:
        await services.store.write(
            [
                tokens.insert_if(
                    token_hash, user=user, device=request.device, now=now, expires_at=expires_at, password=password
                ),
                *login_sql.devices_used({(user, request.device): found}, now, request.label),
            ]
        )
    except Conflict:
        raise ChatError("bad_credentials", "the password was changed this moment") from None
    await services.tokens.keep({token_hash: (None, entry_of(found, now))})
    if services.passwords.outdated(password):
        await _rehash(context, user, password, request.password)
    return await _open(context, session, found, token, token_hash, asked_at=asked_at)


async def resume(context: Context, session: Session, request: Resume) -> LoggedIn | None:
    _not_twice(session)
    token_hash, asked_at = tokens.hash_of(request.token), trio.current_time()
    try:
        found: Found = await context.services.logins.find(Resuming(token_hash, request.device))
    except Banned:
        session.close(Goodbye.BANNED, "banned")
        return None
    return await _open(context, session, found, request.token, token_hash, asked_at=asked_at)


async def logout(context: Context, session: Session, request: Logout) -> None:
    """Ends the token: its row and its entry in Redis. One of the two is enough for now, since a resume heeds both; the
    tombstone then lives as long as the token would."""
    services = context.services
    try:
        await services.store.write([tokens.delete(session.token_hash)])
    except PartError as error:
        if not await services.tokens.bury([session.token_hash], services.tokens.life_ms):
            raise Unavailable(error.part) from None
    else:
        await services.tokens.bury([session.token_hash])
    session.send(Ok(rid=request.rid))
    session.close(Goodbye.LOGGED_OUT, "logged out")


async def change_password(context: Context, session: Session, request: ChangePassword) -> Ok:
    services, user = context.services, session.user
    (result,) = await services.store.read([Statement("SELECT password FROM users WHERE id = %s", (user,))])
    old = result.rows[0][0] if result.rows else None
    if not await services.passwords.matches(old, request.old):
        raise ChatError("bad_credentials", "the old password is wrong")
    new = await services.passwords.hash(request.new)
    try:
        # The row of the user is locked first: a log-in with the old password either has its token in the table by now, or
        # finds the new password.
        _, ended, _ = await services.store.write(
            [
                Statement("UPDATE users SET password = %s WHERE id = %s AND password = %s", (new, user, old), changes=1),
                tokens.select_others(user, session.token_hash),
                tokens.delete_others(user, session.token_hash),
            ]
        )
    except Conflict:
        raise ChatError("bad_credentials", "the password was changed this moment") from None
    await services.tokens.bury([bytes(r[0]) for r in ended.rows])
    for other in list(context.hub.sessions_of(user)):
        if other.session != session.session:
            other.close(Goodbye.LOGGED_OUT, "the password was changed")
    event = PresenceEvent(
        event="end_sessions", user=user, at=context.clock.now(), session=session.session, code=Goodbye.LOGGED_OUT
    )
    backoff = Backoff()
    for left in range(TELLINGS, 0, -1):
        try:
            await context.publisher.tell([event])
        except Unavailable as error:
            log.warning("sessions_elsewhere_not_ended", user=user, why=error.message, tries_left=left - 1)
            await trio.sleep(backoff.next())
        else:
            break
    return Ok()


def _not_twice(session: Session) -> None:
    if session.user:
        raise ChatError("bad_request", "already logged in")


def _full(context: Context, session: Session, found: Found) -> bool:
    """The user has as many sessions here as he may: this one is sent away. (A device's own older one does not count.)"""
    others = sum(other.device != found.device for other in context.hub.sessions_of(found.user))
    if others < context.config.sessions_per_user:
        return False
    wait = int(FULL_MS * random.uniform(0.5, 1.5))
    session.close(Goodbye.TOO_MANY_CONNECTIONS, "this user is on line with too many devices", wait)
    return True


async def _rehash(context: Context, user: int, old: str, password: str) -> None:
    """The hash with today's parameters; at some other log-in when it does not work out now."""
    try:
        new = await context.services.passwords.hash(password)
        await context.services.store.write(
            [Statement("UPDATE users SET password = %s WHERE id = %s AND password = %s", (new, user, old))]
        )
    except (ChatError, PartError) as error:
        log.info("password_not_rehashed", user=user, why=str(error))


async def _open(
    context: Context, session: Session, found: Found, token: str, token_hash: bytes, *, asked_at: float
) -> LoggedIn | None:
    if _full(context, session, found):
        return None
    opened = Opened(
        user=found.user,
        name=found.name,
        device=found.device,
        session=session.session or secrets.token_hex(8),
        token_hash=token_hash,
        groups=found.groups,
        blocked_by=found.blocked_by,
        cursors=found.cursors,
        asked_at=asked_at,
    )
    await context.hub.open(session, opened)
    context.services.logins.check_later(found.user)
    return LoggedIn(
        user=found.user,
        name=found.name,
        device=found.device,
        session=opened.session,
        token=token,
        token_expires_at=found.expires_at,
        new_device=found.new_device,
        cursors=dict(found.cursors),
        groups=sorted(found.groups),
    )
