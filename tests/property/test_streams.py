"""The sequence alone, under a chain that lies: whatever comes, in whatever order, every message of a stream that the caller
may see is shown once and in order, and only voids are skipped."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chat.ordering import AskFetch, Effect, Reconnect, Show
from chat.protocol import Fetched, Message
from chat.sequence import Sequences

KEY = (1, "u1", 7)
LENGTH = 12


def text(seq: int) -> Message:
    return Message(sender=1, to=2, stream=7, seq=seq, sent_at=1, kind="text", text=str(seq), pos=100 + seq)


class Streams(RuleBasedStateMachine):
    @initialize(voids=st.sets(st.integers(0, LENGTH - 2)), limit=st.integers(1, LENGTH))
    def begin(self, voids: set[int], limit: int) -> None:
        self.voids, self.limit = voids, limit
        self.sequences = Sequences("u2", {}, limit)
        self.now = 0.0
        self.shown: list[int] = []
        self.came: set[int] = set()
        self.persisted = 0
        self.ask: AskFetch | None = None

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Show):
                assert isinstance(effect.message.seq, int)
                self.shown.append(effect.message.seq)
            elif isinstance(effect, AskFetch):
                assert effect.seqs == tuple(sorted(set(effect.seqs)))
                assert self.shown[-1:] < list(effect.seqs[:1])
                self.ask = effect
            else:
                assert isinstance(effect, Reconnect)
                self.sequences.forget_waiting()
                self.came = set(self.shown)
                self.ask = None

    @rule(seq=st.integers(0, LENGTH - 1))
    def arrive(self, seq: int) -> None:
        if seq in self.voids:
            return
        effects: list[Effect] = []
        if self.sequences.offer(KEY, text(seq), 0, self.now, effects):
            self.came.add(seq)
        else:
            assert self.sequences.full
        self.carry_out(effects)

    @rule(upto=st.integers(0, LENGTH))
    def persist(self, upto: int) -> None:
        self.persisted = max(self.persisted, upto)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        effects: list[Effect] = []
        self.sequences.tick(self.now, effects)
        self.carry_out(effects)

    @precondition(lambda self: self.ask)
    @rule(fate=st.sampled_from(["answered", "answered", "a part", "failed"]))
    def fetch(self, fate: str) -> None:
        ask, self.ask = self.ask, None
        assert ask is not None
        effects: list[Effect] = []
        if fate == "failed":
            self.sequences.failed(KEY, self.now, effects)
        else:
            known = [s for s in ask.seqs if s < self.persisted][: 1 if fate == "a part" else None]
            answer = Fetched(
                messages=[text(s) for s in known if s not in self.voids],
                void=[s for s in known if s in self.voids],
                pending=[s for s in ask.seqs if s not in known],
            )
            self.sequences.fetched(KEY, answer, self.now, effects)
        self.carry_out(effects)

    @invariant()
    def shown_in_order_and_without_holes(self) -> None:
        if hasattr(self, "shown"):
            visible = [s for s in range(LENGTH) if s not in self.voids]
            assert self.shown == visible[: len(self.shown)]

    @invariant()
    def what_came_is_shown_or_held(self) -> None:
        if hasattr(self, "shown"):
            waits = self.came - set(self.shown)
            if waits:
                assert self.sequences.held is not None
                assert self.sequences.held <= min(100 + s for s in waits)

    def teardown(self) -> None:
        if not hasattr(self, "shown"):
            return
        self.persisted = LENGTH
        for _ in range(60):
            for seq in range(LENGTH):
                self.arrive(seq)
            if len(self.shown) == LENGTH - len(self.voids):
                return
            self.tick(5.0)
            if self.ask:
                self.fetch("answered")
        raise AssertionError(f"only {self.shown} without {self.voids}")


TestStreams = Streams.TestCase
