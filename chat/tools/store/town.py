"""A town: people who know each other, their groups, and what they said in two years, as the records of the log. Pure.

The same town, seed and logs make the same records. Numbers of users and groups follow from the town's, so towns do not
touch each other. Some people and groups say far more than others (by 1/rank), they speak in bursts of some minutes, and each
burst is a piece of an IRC log: its speakers are members of the group, or the two of a direct conversation; a line that
is addressed to somebody also goes to him directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from random import Random
from typing import Final, NamedTuple

from chat.protocol import Message
from chat.records import Receipts, TimelineRecord, group_timeline, message_records, notice, user_timeline
from chat.tools.store.corpus import Corpus, Line

USERS: Final = 500
GROUPS: Final = 20
#: Rows of a whole town.
ROWS: Final = 125_000
DAY_MS: Final = 86_400_000
SPAN_MS: Final = 730 * DAY_MS
#: A client begins a new stream after so long: it was installed anew, or its state was restored.
_RUN_MS: Final = 91 * DAY_MS
_BURST: Final = 14  # lines, on average
_ROWS_A_LINE: Final = 1.9
_IN_GROUPS: Final = 0.45  # of the bursts
_RECEIPT: Final = 0.05  # of the direct messages
_LEAVERS: Final = 0.1  # of the members of a group have left and come back
_READ_UP_TO: Final = (0.95, 1.0)  # of the time that a conversation was written in
_DEVICES: Final = ("phone", "desktop")


class Size(NamedTuple):
    """Of a town; smaller ones are for tests."""

    users: int = USERS
    groups: int = GROUPS
    rows: int = ROWS


class Group(NamedTuple):
    number: int
    name: str
    members: Sequence[int]  # the owner first


class Town:
    """`since`: ms, when its two years begin."""

    def __init__(self, number: int, corpus: Corpus, *, seed: int, since: int, size: Size | None = None) -> None:
        self.number, self.since = number, since
        self.size = size or Size()
        self._corpus = corpus
        self._random = random = Random(f"{seed}/{number}")
        first = number * self.size.users + 1
        self.users = range(first, first + self.size.users)
        self.groups = [self._group(number * self.size.groups + n + 1) for n in range(self.size.groups)]
        self._pairs = self._friendships()
        self._streams: dict[tuple[int, int], int] = {}  # (user, run) → stream
        self._seqs: Counter[tuple[int, str]] = Counter()
        self._last: dict[str, dict[int, tuple[int, int]]] = {}
        self._group_weights = _by_rank(self.size.groups, random)
        self._pair_weights = _by_rank(len(self._pairs), random)

    def _group(self, number: int) -> Group:
        most = max(3, self.size.users // 5)
        members = self._random.sample(self.users, min(self.size.users, self._random.randint(3, most)))
        return Group(number, f"group {number}", members)

    def _friendships(self) -> list[tuple[int, int]]:
        """Each person with some of those around him."""
        users, random = self.users, self._random
        pairs = {
            (min(user, other), max(user, other))
            for user in users
            for other in random.sample(users, min(len(users), random.randint(1, 6)))
            if other != user
        }
        return sorted(pairs)

    # ------------------------------------------------------------------ the log

    def records(self) -> Iterator[TimelineRecord]:
        """In the order of the log. As many as the rows that are wanted: all but those of kind `read` become rows."""
        yield from islice(self._all(), self.size.rows)
        yield from self._read_marks()

    def _all(self) -> Iterator[TimelineRecord]:
        beginning = list(self._beginning())
        yield from beginning
        random = self._random
        # A direct message has two records, and some lines of groups are direct messages too.
        lines = max(0, self.size.rows - len(beginning)) / _ROWS_A_LINE
        bursts = max(1, int(lines / _BURST))
        # The bursts before the end of the two years may be too short; then there are some more.
        now, number = self.since + DAY_MS, 0
        while True:
            now = max(now, self.since + DAY_MS + int((SPAN_MS - 2 * DAY_MS) * min(1.0, number / bursts)))
            number += 1
            length = max(1, int(random.expovariate(1 / _BURST)))
            if random.random() < _IN_GROUPS:
                group = self.groups[_pick(self._group_weights, random)]
                for record in self._in_group(group, self._piece(length), now):
                    now = record.record.timestamp
                    yield record
            else:
                pair = self._pairs[_pick(self._pair_weights, random)]
                for record in self._between(pair, self._piece(length), now):
                    now = record.record.timestamp
                    yield record

    def _piece(self, length: int) -> Sequence[Line]:
        log = self._random.choice(self._corpus.logs)
        start = self._random.randrange(len(log))
        return log[start : start + length]

    def _beginning(self) -> Iterator[TimelineRecord]:
        """Friendships, groups, and members that leave and come back."""
        now = self.since
        for one, other in self._pairs:
            for kind, by, to in (("friend_request", one, other), ("friend_accepted", other, one)):
                now += 7
                said = notice(kind, sender=by, to=to, sent_at=now)
                yield from message_records(said, (user_timeline(one), user_timeline(other)))
        for group in self.groups:
            owner = group.members[0]
            for user in group.members:
                now += 7
                yield from self._membership("group_joined", group, owner, user, now)
            for user in group.members[1:]:
                if self._random.random() < _LEAVERS:
                    now += 7
                    yield from self._membership("group_left", group, user, user, now)
                    yield from self._membership("group_joined", group, user, user, now + 3)

    def _membership(self, kind: str, group: Group, by: int, user: int, now: int) -> Iterator[TimelineRecord]:
        extra = {"user": user, "name": f"user {user}", "group": group.number}
        in_group = notice(kind, sender=by, group=group.number, sent_at=now, extra=extra)
        to_user = notice(kind, sender=by, to=user, sent_at=now, extra=extra)
        yield from message_records(in_group, (group_timeline(group.number),))
        yield from message_records(to_user, (user_timeline(user),))

    def _in_group(self, group: Group, lines: Sequence[Line], now: int) -> Iterator[TimelineRecord]:
        members = group.members
        for line in lines:
            now += self._pause()
            sender = members[line.speaker % len(members)]
            text = self._corpus.text(self._random, line.words)
            yield self._message(sender, text, now, group=group.number)[0]
            if line.to is not None and (to := members[line.to % len(members)]) != sender:
                yield from self._message(sender, text, now, to=to)

    def _between(self, pair: tuple[int, int], lines: Sequence[Line], now: int) -> Iterator[TimelineRecord]:
        for line in lines:
            now += self._pause()
            sender, to = pair if line.speaker % 2 else (pair[1], pair[0])
            yield from self._message(sender, self._corpus.text(self._random, line.words), now, to=to)

    def _pause(self) -> int:
        return 1_000 + int(self._random.random() * 9_000)

    def _message(
        self, sender: int, text: str, now: int, *, to: int | None = None, group: int | None = None
    ) -> list[TimelineRecord]:
        where = f"u{to}" if group is None else f"g{group}"
        stream = self._stream(sender, now)
        seq = self._seqs[stream, where]
        self._seqs[stream, where] = seq + 1
        said = Message(sender=sender, to=to, group=group, stream=stream, seq=seq, sent_at=now, kind="text", text=text)
        timelines = [group_timeline(group)] if group is not None else [user_timeline(to or 0), user_timeline(sender)]
        for timeline in timelines:
            other = group if group is not None else (sender if timeline == where else to or 0)
            last = self._last.setdefault(timeline, {})
            last[other] = (last.get(other, (now,))[0], now)
        return message_records(said, timelines, receipt=group is None and self._random.random() < _RECEIPT)

    def _stream(self, user: int, now: int) -> int:
        run = (user, (now - self.since) // _RUN_MS)
        if run not in self._streams:
            self._streams[run] = self._random.getrandbits(48)
        return self._streams[run]

    # ------------------------------------------------------------------ what was read

    def _read_marks(self) -> Iterator[TimelineRecord]:
        """Of each direct conversation, by each of the two: most of it."""
        for timeline, conversations in self._last.items():
            if timeline[0] != "u":
                continue
            me = int(timeline[1:])
            for other, (first, last) in conversations.items():
                mark = first + int((last - first) * self._random.uniform(*_READ_UP_TO))
                said = notice("read", sender=me, to=other, sent_at=self.since + SPAN_MS, extra={"sent_at": mark})
                yield from message_records(said, (timeline,))

    def receipts(self, ends: dict[str, int]) -> Iterator[Receipts]:
        """What the devices have acknowledged. `ends`: the last position of each timeline; a device in ten is behind."""
        groups: dict[int, list[str]] = {}
        for group in self.groups:
            for user in group.members:
                groups.setdefault(user, []).append(group_timeline(group.number))
        for user in self.users:
            for kind in _DEVICES:
                share = 1.0 if self._random.random() < 0.9 else self._random.uniform(0.9, 1.0)
                acks = {t: int(ends[t] * share) for t in (user_timeline(user), *groups.get(user, ())) if t in ends}
                yield Receipts(user=user, device=device_of(kind, user), acks=acks)


def device_of(kind: str, user: int) -> str:
    return f"{kind}-{user:08d}"


def _by_rank(number: int, random: Random) -> list[float]:
    """Cumulative weights 1/rank, the ranks in any order."""
    weights = [1 / (rank + 1) for rank in range(number)]
    random.shuffle(weights)
    return list(accumulate(weights))


def _pick(weights: list[float], random: Random) -> int:
    return random.choices(range(len(weights)), cum_weights=weights)[0]
