"""Putting a dead record where it belongs, when what was wrong is mended: persist's own parsing, judging and SQL, at the
record's own position.

Life has gone on since it died:

* **A text's stream** has moved on: the row is inserted, the head stays. (Devices that have everything beyond it do not ask
  for it any more; it is in the history, and new devices get it.)
* **Friendships and memberships** are kept in the log's order: the state is computed anew from all stored notices of this
  pair, or of this member, with this one in its place among them.
* **Marks and cursors** only ever grow.

Idempotent: a row at the position with the same bytes is the record itself.

A running persist is locked out of what is read here and written later: the transaction changes the rows of `offsets` of the
partitions that the timeline lies in, if they are still as they were before anything was read, and says by `mended` that
persist's own states are old. Whoever comes second begins anew: persist, or this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from chat.admin.graveyard import Dead
from chat.backoff import Backoff
from chat.errors import BadData, Conflict
from chat.fitting import FRIEND_KINDS
from chat.persist.batch import Changes, Friendship, build, needs, same_content
from chat.persist.parse import Entry, Parsed, parse_messages, parse_receipts
from chat.persist.queries import places
from chat.persist.relations import Groups, befriend
from chat.persist.store import Store, effects
from chat.ports import Database, Statement
from chat.positions import generation_of, offset_of
from chat.protocol import MEMBERSHIP_KINDS, decode_message
from chat.records import Consumed, TopicPartition, Topics, partition_of

if TYPE_CHECKING:  # it brings Arrow
    from chat.persist.archive.shelf import Cold, Shelf

_CUT: Final = "(value cut from "
TRIES: Final = 40


class Hopeless(Exception):
    """It cannot be put where it belongs (now): says why."""


async def mend(database: Database, topics: Topics, dead: Dead, note: Statement, archive: Shelf | None = None) -> str:
    """Store it, and `note` with it in one transaction; what was done. `archive`: where older rows may be; the archiver must
    be held off then. Raises Hopeless, PartError, SetupError."""
    parsed = _parsed(topics, dead)
    if parsed.receipts:
        changes = build(parsed, await Store(database).load(needs(parsed), {}))
        return await _write(database, (), changes, [note], "cursors set")
    entry = parsed.entries[0]
    past = await archive.rows(entry.timeline, entry.conversation) if archive else []
    backoff = Backoff(0.005, 0.2)
    for _ in range(TRIES):
        lock = await _locks_out(database, topics, entry.timeline)
        try:
            return await _mend(database, _parsed(topics, dead), lock, note, past)
        except Conflict:
            await trio.sleep(backoff.next())
    raise Hopeless(f"persist has stored in its timeline's partition at each of {TRIES} tries: run this again")


async def _locks_out(database: Database, topics: Topics, timeline: str) -> list[Statement]:
    """To begin a transaction with. Raises Conflict then where persist has stored something of the timeline's partitions, in
    any generation, since this was called."""
    (result,) = await database.read([Statement("SELECT topic, topic_partition, next_offset, mended FROM offsets")])
    counts = Counter(topic for topic, *_ in result.rows if topics.generation_of(topic) is not None)
    mine = [r for r in result.rows if r[0] in counts and r[1] == partition_of(timeline, counts[r[0]])]
    if not mine:
        return []
    where = " OR ".join(["(topic = %s AND topic_partition = %s AND next_offset = %s AND mended = %s)"] * len(mine))
    return [Statement(f"UPDATE offsets SET mended = mended + 1 WHERE {where}", [v for row in mine for v in row], len(mine))]


async def _mend(database: Database, parsed: Parsed, lock: Sequence[Statement], note: Statement, past: Sequence[Cold]) -> str:
    """One try. `past`: the archived rows of its conversation. Raises Conflict too."""
    (entry,) = parsed.entries
    if await _is_stored(database, entry, past):
        return await _write(database, lock, Changes(), [note], "it is stored already")
    if entry.message.kind == "text":
        changes, said = await _text(Store(database), parsed, entry, past)
        return await _write(database, lock, changes, [note], said)
    changes = build(parsed, await Store(database).load(needs(parsed), {}))
    if not changes.rows:
        return await _write(database, lock, await _newer_marks(database, changes), [note], "marks set")
    changes.friends, changes.groups = {}, Groups({}, {})
    more: list[Statement] = []
    said = f"stored at position {entry.pos}"
    if entry.about and entry.message.kind in FRIEND_KINDS:
        changes.friends = await _friendship(database, entry, past)
        said += ", the friendship computed anew"
    elif entry.about and entry.message.kind in MEMBERSHIP_KINDS:
        more = await _membership(database, entry, past)
        said += ", the membership computed anew"
    return await _write(database, lock, changes, [*more, note], said)


def _parsed(topics: Topics, dead: Dead) -> Parsed:
    parsed, place = Parsed([], [], []), TopicPartition(dead.topic, dead.partition)
    if _CUT in dead.why:
        raise Hopeless(f"it was too large to be kept whole; the original was at {dead.topic}/{dead.partition}, offset "
                       f"{dead.record.offset}")  # fmt: skip
    generation = topics.generation_of(dead.topic)
    if generation is not None:
        parse_messages(parsed, place, generation, [dead.record])
    elif dead.topic == topics.receipts:
        parse_receipts(parsed, place, [dead.record])
    else:
        raise Hopeless(f"nothing is stored from {dead.topic or 'an unknown topic'}: {dead.why}")
    if parsed.dead:
        raise Hopeless(f"it cannot be read: {parsed.dead[0].why}. Only a version that can read it can retry it")
    return parsed


async def _is_stored(database: Database, entry: Entry, past: Sequence[Cold]) -> bool:
    """Raises Hopeless where another record has its position."""
    select = Statement("SELECT body FROM messages WHERE timeline = %s AND position = %s", (entry.timeline, entry.pos))
    (result,) = await database.read([select])
    found = [bytes(row[0]) for row in result.rows] or [row.body for row in past if row.position == entry.pos]
    if found and found[0] != entry.record.value:
        raise Hopeless(f"another record is stored at its position {entry.pos} of {entry.timeline}")
    return bool(found)


async def _text(store: Store, parsed: Parsed, entry: Entry, past: Sequence[Cold]) -> tuple[Changes, str]:
    changes = build(parsed, await store.load(needs(parsed), {}))
    if not changes.unverified:  # it is next in its stream, or first
        return changes, f"stored at position {entry.pos}"
    ((first),) = await store.first_copies([entry])
    own = (entry.message.sender, entry.stream, entry.seq)
    for row in past if first is None else ():
        if (row.sender, row.stream, row.seq) == own:
            first = (row.position, decode_message(row.body))
    if first is None:
        return Changes(rows=[entry]), f"stored at position {entry.pos}; its stream had moved on"
    if not same_content(first[1], entry.message):
        raise Hopeless(f"a message with its id but another text or extra is stored, at position {first[0]}")
    return Changes(), f"it is stored already, at position {first[0]}"


async def _newer_marks(database: Database, changes: Changes) -> Changes:
    """`delivered` says the latest: what is known from a later record stays. (`read` is kept by the highest.)"""
    for user, conversation in list(changes.delivered):
        select = Statement(
            "SELECT position FROM delivered_marks WHERE user = %s AND conversation = %s", (user, conversation)
        )
        (result,) = await database.read([select])
        if result.rows and result.rows[0][0] > changes.delivered[user, conversation].position:
            del changes.delivered[user, conversation]
    return changes


async def _friendship(database: Database, entry: Entry, past: Sequence[Cold]) -> dict[tuple[int, int], Friendship]:
    owner, state, changed_at = int(entry.timeline[1:]), None, entry.pos
    for one in await _notices(database, entry, FRIEND_KINDS, past):
        after = befriend(state, one.message.kind, one.message.sender == owner)
        if after != state:
            state, changed_at = after, one.pos
    return {(owner, entry.about): Friendship(state, changed_at)}


async def _membership(database: Database, entry: Entry, past: Sequence[Cold]) -> list[Statement]:
    """His stays are written anew. Where he owned the group and is not in it, the longest member owns it."""
    group, user = int(entry.timeline[1:]), entry.about
    stays = Groups({}, {})
    for one in await _notices(database, entry, MEMBERSHIP_KINDS, past):
        if one.message.kind == "group_joined":
            stays.join(group, user, one.pos, one.message.sent_at)
        else:
            stays.leave(group, user, one.pos, one.message.sent_at)
    statements = [Statement("DELETE FROM members WHERE chat_group = %s AND user = %s", (group, user))]
    statements += [
        Statement(
            "INSERT INTO members (chat_group, user, from_position, to_position, joined_at, left_at)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (group, user, stay.start, stay.end, stay.joined_at, stay.left_at),
        )
        for stay in stays.begun.values()
    ]
    if not stays.inside.get(group):
        heir = (
            "(SELECT m.user FROM members m WHERE m.chat_group = %s AND m.to_position IS NULL"
            " ORDER BY m.from_position LIMIT 1)"
        )
        statements.append(
            Statement(
                f"UPDATE chat_groups SET owner = COALESCE({heir}, owner) WHERE id = %s AND owner = %s", (group, group, user)
            )
        )
    return statements


async def _notices(database: Database, entry: Entry, kinds: frozenset[str], past: Sequence[Cold]) -> Sequence[Entry]:
    """The stored notices of these kinds about the same user in the same timeline, and `entry`, in the log's order."""
    args = [entry.timeline, entry.conversation, *sorted(kinds)]
    select = Statement(
        "SELECT position, sent_at, body FROM messages WHERE timeline = %s AND conversation = %s"
        f" AND kind IN ({places(kinds)})",
        args,
    )
    (result,) = await database.read([select])
    parsed = Parsed([], [], [])
    archived = [(row.position, row.sent_at, row.body) for row in past if row.kind in kinds]
    for pos, sent_at, body in [*archived, *result.rows]:
        record = Consumed(offset_of(pos), sent_at, entry.timeline.encode(), bytes(body), ())
        parse_messages(parsed, entry.partition, generation_of(pos), [record])
    return sorted([entry, *(e for e in parsed.entries if e.about == entry.about)], key=lambda e: e.pos)


async def _write(
    database: Database, lock: Sequence[Statement], changes: Changes, more: Sequence[Statement], said: str
) -> str:
    try:
        await database.write([*lock, *effects(changes), *more])
    except BadData as error:
        raise Hopeless(f"MySQL still refuses it: {error.message}") from error
    return said
