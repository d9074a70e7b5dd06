"""MySQL 8 or MariaDB 10.11 on aiomysql's connections, with a pool of our own.

aiomysql's pool hands out a connection whose last user was cancelled in mid-command, and waits without a limit. Here a
connection goes back to the pool only after a call that ended cleanly, and every other one is closed.

**Round trips.** The statements of a call are sent as one text (aiomysql switches multi-statements on) and their results
read one after the other, so a transaction costs two round trips: everything up to the last statement, then COMMIT. The
server stops at the first statement that fails.

**Rows changed** are rows that an UPDATE really altered, not rows that it found (the flag FOUND_ROWS is off). So the
compare-and-set of an offset changes no row when another process has moved it on. INSERT … ON DUPLICATE KEY UPDATE counts
1 for a new row, 2 for a changed one, 0 for one left as it was.

Arguments are written into the text by `chat.sql`; a statement with arguments writes a per cent sign as `%%`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import aiomysql
import structlog
import trio
from pymysql.err import MySQLError

from chat import sql
from chat.bridge.link import turn
from chat.bridge.loop import call
from chat.config import MysqlConfig
from chat.errors import BadData, Conflict, PartAway, PartError
from chat.ports import Result, Statement

T = TypeVar("T")
Connection = Any

_log = structlog.get_logger(__name__)

#: Statements are sent together up to this size; the server's max_allowed_packet is at least 16 MB.
TOGETHER_BYTES: Final = 4 << 20
#: Definitions may take long: an index on a table of ten million rows.
SCRIPT_SECONDS: Final = 3_600.0
_STRICT: Final = "STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_DUPLICATE: Final = frozenset({1062, 1586})
#: The server says "not now" or "not you": access, connections, locks, shutdown, read only, time limits.
_AWAY: Final = frozenset(
    {
        1040, 1041, 1042, 1043, 1044, 1045, 1047, 1049, 1053, 1077, 1079, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1184,
        1203, 1205, 1213, 1226, 1290, 1317, 1614, 1615, 1698, 1836, 1927, 1969, 3024, 3100, 3101, 3168, 4031,
    }
)  # fmt: skip


def translate(error: BaseException) -> PartError:
    """The driver's error in the project's words."""
    if isinstance(error, PartError):
        return error
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    said = f"{code}: {error.args[1]}" if code and len(error.args) > 1 else str(error) or type(error).__name__
    if not isinstance(error, MySQLError) or not code or code in _AWAY or 2000 <= code < 3000:
        return PartAway("mysql", said)
    return BadData("mysql", said, duplicate=code in _DUPLICATE)


@contextmanager
def mysql_errors() -> Iterator[None]:
    try:
        yield
    except (MySQLError, OSError, RuntimeError) as error:  # RuntimeError: a transport that is closed already
        raise translate(error) from error


def written(statement: Statement) -> str:
    """The statement's text with its arguments in it, ready to be joined with others."""
    text = statement.sql.rstrip("; \n")
    return text % tuple(map(sql.literal, statement.args)) if statement.args else text


class MysqlDatabase:
    """ports.Database. Open it with `open_database`. Many tasks may use it. Connects when it is used."""

    def __init__(self, config: MysqlConfig) -> None:
        self._config = config
        self._seconds = config.timeout_ms / 1000
        self._slots = trio.Semaphore(config.connections)
        self._idle: list[Connection] = []

    # ---------------------------------------------------------------- ports.Database

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        async def work(connection: Connection) -> list[Result]:
            return await run(connection, [], statements)

        return await self._with_connection(work)

    async def snapshot(self, statements: Sequence[Statement]) -> list[Result]:
        async def work(connection: Connection) -> list[Result]:
            results = await run(connection, _SNAPSHOT, statements)
            await connection.query("COMMIT")
            return results

        return await self._with_connection(work)

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        async def work(connection: Connection) -> list[Result]:
            results = await run(connection, _BEGIN, statements)
            for index, (statement, result) in enumerate(zip(statements, results, strict=True)):
                if statement.changes is not None and statement.changes != result.changed:
                    raise Conflict("mysql", index, result.changed)
            await connection.query("COMMIT")
            return results

        return await self._with_connection(work)

    async def script(self, statements: Sequence[str]) -> None:
        """On a connection of its own, without the session's limits, for up to an hour."""

        async def work() -> None:
            connection = await self.connect(limits=False)
            try:
                for statement in statements:
                    await connection.query(statement)
            finally:
                connection.close()

        with mysql_errors():
            await call(SCRIPT_SECONDS, work)

    def lock(self, name: str) -> MysqlLock:
        return MysqlLock(self, self._config, name)

    # ---------------------------------------------------------------- the pool

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _with_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        with mysql_errors():
            with trio.move_on_after(self._seconds):
                async with turn(self._slots):
                    return await call(self._seconds, self._session, work)
            raise TimeoutError("no free connection, or no answer in time")

    async def _session(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        connection = self._take_idle() or await self.connect(limits=True)
        try:
            result = await work(connection)
        except (PartError, MySQLError) as error:
            if _is_sound(error) and await _roll_back(connection):
                self._idle.append(connection)
            else:
                connection.close()
            raise
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return result

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            reader = connection._reader
            if reader is not None and not reader.eof_received and not reader.at_eof() and reader.exception() is None:
                return connection
            connection.close()
        return None

    async def connect(self, *, limits: bool) -> Connection:
        """Asyncio: a new connection. With `limits` the server itself ends what goes on longer than we wait."""
        config = self._config
        connection = await aiomysql.connect(
            host=config.host,
            port=config.port,
            user=config.user,
            password=config.password,
            db=config.database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=self._seconds,
        )
        try:
            settings = [f"sql_mode='{_STRICT}'"]
            if limits:
                settings.append(f"innodb_lock_wait_timeout={max(1, int(self._seconds) - 1)}")
                if "MariaDB" in connection.get_server_info():
                    settings.append(f"max_statement_time={self._seconds}")
                else:
                    settings.append(f"max_execution_time={config.timeout_ms}")
            await run(connection, [_READ_COMMITTED, f"SET SESSION {','.join(settings)}"], [])
        except BaseException:
            connection.close()
            raise
        _log.debug("mysql_connected")
        return connection


_READ_COMMITTED: Final = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
_BEGIN: Final = ["START TRANSACTION"]
_SNAPSHOT: Final = [
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
]


def _is_sound(error: BaseException) -> bool:
    """The connection is: a refusal of the data, a Conflict, a deadlock or a lock time-out."""
    return not isinstance(translate(error), PartAway) or error.args[0] in (1205, 1213)


async def _roll_back(connection: Connection) -> bool:
    try:
        await connection.query("ROLLBACK")
    except (MySQLError, OSError, RuntimeError):
        return False  # the caller hears of the first error
    except BaseException:
        connection.close()
        raise
    return True


async def run(connection: Connection, before: Sequence[str], statements: Sequence[Statement]) -> list[Result]:
    """Asyncio: send `before` and `statements`, together as far as they fit; the results of `statements`."""
    texts = [*before, *map(written, statements)]
    results: list[Result] = []
    start = 0
    while start < len(texts):
        end, size = start + 1, len(texts[start])
        while end < len(texts) and size + len(texts[end]) <= TOGETHER_BYTES:
            size += len(texts[end])
            end += 1
        await connection.query("\n;".join(texts[start:end]))
        results.append(_result(connection))
        for _ in range(start + 1, end):
            await connection.next_result()
            results.append(_result(connection))
        start = end
    return results[len(before) :]


def _result(connection: Connection) -> Result:
    found = connection._result
    return Result(found.rows or (), found.affected_rows or 0, found.insert_id or 0)


class MysqlLock:
    """ports.Lock, on a connection of its own: when that dies, so does the lock."""

    def __init__(self, database: MysqlDatabase, config: MysqlConfig, name: str) -> None:
        self._database = database
        self._seconds = config.timeout_ms / 1000
        self._name = f"{config.database}.{name}"[-64:]  # names of locks are the whole server's
        self._connection: Connection = None

    async def __aenter__(self) -> bool:
        with mysql_errors():
            return await call(self._seconds, self._enter)

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()  # which releases it

    async def held(self) -> bool:
        """Is it still ours? False once its connection has been lost."""
        if self._connection is None:
            return False
        try:
            with mysql_errors():
                return bool(await call(self._seconds, self._ask, "SELECT IS_USED_LOCK(%s) = CONNECTION_ID()"))
        except PartError:
            return False

    async def _enter(self) -> bool:
        self._connection = await self._database.connect(limits=False)
        try:
            if await self._ask("SELECT GET_LOCK(%s, 0)") == 1:
                return True
        except BaseException:
            self._connection.close()
            self._connection = None
            raise
        self._connection.close()
        self._connection = None
        return False

    async def _ask(self, question: str) -> Any:
        (result,) = await run(self._connection, [], [Statement(question, (self._name,))])
        return result.rows[0][0]


@asynccontextmanager
async def open_database(config: MysqlConfig) -> AsyncIterator[MysqlDatabase]:
    database = MysqlDatabase(config)
    try:
        yield database
    finally:
        await database.close()
