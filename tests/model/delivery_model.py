#!/usr/bin/env python3
"""An executable specification of the delivery core: a model of it, and an explorer that looks for schedules that break
its promises. Standard library only.

    senders -> edge (producer) -> chat.messages -> router -> chat.edge.X -> edge (a pipe) -> device (keeps the chain)
                                        `-> persist -> rows, stream heads, next offsets -> sync, stateless, at the edge

The rules, in short:

  Sender   A message is one record in the recipient's timeline and one in the sender's own. `accepted n`: both records
           of every message up to n in the stream are acknowledged by Kafka. Per partition the next batch is handed over
           when the last one's future is done; a batch that fails ends the producer and closes the connections behind
           it. A new run of the client begins a new stream; what is left in the old outbox is only sent again.
  Router   Reads a partition in order; looks Redis up after the fetch (Redis away: every edge); delivers with `pos` and
           `prev`, the position of the record before it in the timeline, or unknown. Its memory for `prev` is as good as
           its reading is gapless: it is emptied whenever the place to read from is set anew. It commits the contiguous
           low watermark. Deliveries may be repeated, reordered, late or lost: nothing rests on them but promptness.
  Edge     Passes deliveries on. A location that may have been missing (lease lapsed, new Redis run id, written late) is
           written again, and the session gets the hint `resync`; so do all when the edge's topic was cut off before it.
  Device   `known`: it has everything up to there. A delivery with pos <= known is dropped; with prev <= known it is
           taken and known = pos; any other is only remembered (`seen`; keeping it in a buffer is optional) and asks for
           a sync. At most one sync is under way; another follows while the last was incomplete, seen > known, or a hint
           came since it was sent. Acknowledgements are `known`.
  Sync     (timeline, after): E = end of the timeline's partition, asked for after the request came and after the
           session's location was written; wait for persist to reach E, for a bounded time; in one snapshot, older or
           newer: next offset N in the newest generation known there, rows after < position < N, hot and cold. upto = N,
           or behind the last row if cut. complete = upto >= E. The device takes the rows, then known = max(known,
           upto - 1), then what it buffered.
           To a device without its state (also: a new device, a new member) the answer that is not cut brings the
           stream heads of the same snapshot; until then such a device takes no live delivery. Heads count only where
           upto > known: a cursor acknowledged from live deliveries may lie beyond what persist has.
  Persist  Rows, stream heads and next offset in one transaction, the offset compared with that of the first record.

One recipient timeline `u` (devices 0 and 1) and the senders' own `a` (device 2) and `b`; two partitions, in which `u`
shares with `a`; two generations of the topic, in which the timelines lie differently; two edges, a router and a zombie
of it, persist, archive, Redis. Every step is atomic; between two steps anything may crash. Nothing has a clock: "late"
and "lost" are choices of the scheduler.

    python3 delivery_model.py                 every flaw alone (a short schedule that shows its harm), then the design
    python3 delivery_model.py --design 120    only the design, for 120 seconds
    python3 delivery_model.py --flaw NAME [--flaw NAME ...] [--seconds 10]

FLAWS are rules left out or done wrong. Without a flaw nothing may be found; with one a counterexample must be found: so
each rule is needed, and the model can see it. A flaw is of class `loss` (it breaks a promise for good) or `late` (a
message waits for the timeline's next message, a hint, the periodic sync or a log-in: never more than that).

Checked at every step:     a cursor never passes a message that the device has not shown; no message is shown twice, out
                           of order, or after a hole, within a stream; a device that lost its state shows nothing that
                           lies below the cursor it began from; the log has no hole in a stream; history holds a
                           message once per timeline.
Checked when all is quiet: every accepted message is in history, in both timelines, and on every device: first without
                           the periodic sync, a new message or a log-in (STUCK if not), then with a periodic sync
                           (LOST).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

GEN = 1000  # position = generation * GEN + offset
PAGE = 2  # rows a page
MESSAGES = 5  # of one sender
SENDERS, EDGES, DEVICES, PARTS = (0, 1), (0, 1), (0, 1, 2), (0, 1)
OWN = ("a", "b")  # timeline of sender 0, 1
TIMELINE = ("u", "u", "a")  # of device 0, 1, 2
PLACE = ({"u": 0, "a": 0, "b": 1}, {"u": 1, "a": 0, "b": 1})  # generation -> timeline -> partition
LOGS = [(g, p) for g in (0, 1) for p in PARTS]

# name -> (class, what is done wrong)
FLAWS = {
    # sender and producer
    "ack_lower": ("loss", "a resent seq below the expected one is acknowledged as it is, before Kafka has it"),
    "ack_one": ("loss", "accepted when one of the two records is acknowledged"),
    "past_failure": ("loss", "later batches go on, and are accepted cumulatively, after one failed"),
    "pipeline": ("loss", "the next batch of a partition is handed over before the last one's future is done"),
    "outbox_rollback": ("loss", "a client whose disk went back numbers new messages on the old stream"),
    # router
    "prev_forgot": ("loss", "a router that has not seen the timeline yet says that nothing is before"),
    "prev_kept": ("loss", "a router that gets a partition back still uses what it remembers from before"),
    "neg_cache": ("late", "a router remembers between batches where a user is"),
    "stale_broadcast": ("late", "Redis away: deliver to the edges that this router last knew alive"),
    # edge
    "edge_jump": ("late", "an edge that is behind its topic's retention goes on without a hint"),
    "edge_latest": ("late", "an edge's start in its topic is resolved when it first polls, after log-ins"),
    "lose_one": ("late", "a full session loses a delivery instead of being closed"),
    "lease_blind": ("late", "renewing a lease sets it, seeing nothing of a lapse"),
    "epoch_blind": ("late", "Redis loses a location and nobody notices (no new run id; eviction)"),
    "loc_by_device": ("late", "the location is kept by device: a late write overwrites a newer one"),
    "rereg_no_hint": ("late", "a session whose location was written late gets no hint"),
    # sync
    "e_shared": ("late", "a sync uses an end-offset request that was already under way"),
    "e_ungated": ("late", "the end offset is asked for before the session's location was written"),
    "sync_hot_only": ("loss", "a sync reads hot rows only; the archiver has moved some"),
    "cold_early": ("loss", "cold rows are read in an earlier snapshot than hot rows"),
    "upto_later": ("loss", "the next offset is read after the rows, not in their snapshot"),
    "upto_E": ("loss", "upto = E though persist had not reached it"),
    "upto_old_gen": ("loss", "upto is of the generation in which E was asked for, the stream heads are newer"),
    "upto_cut": ("loss", "a page that was cut says upto = next offset"),
    # device
    "take_unchained": ("loss", "a delivery that does not chain is taken, and the sync begins at it"),
    "buffer_first": ("loss", "what was buffered is applied before the rows of the answer"),
    "known_rows": ("loss", "known follows the rows only, not upto: a duplicate in the log is asked for for ever"),
    "unchained_forgotten": ("late", "a delivery that does not chain is dropped while a sync is under way"),
    "hint_absorbed": ("late", "a hint that comes while a sync is under way is taken as answered by it"),
    "incomplete_ends": ("late", "an incomplete answer is not followed by another sync"),
    "amnesia_live": ("loss", "a device without its state takes live deliveries and rows alike, without stream heads"),
    "heads_behind": ("loss", "a device without its state takes stream heads of a snapshot older than its cursor"),
    # persist, topic
    "archive_forgets": ("loss", "duplicates are known by rows that the archiver deletes"),
    "seek_race": ("loss", "persist reads before its seek, and compares the next offset with the value it just read"),
    "repart_live": ("loss", "edges change to a new generation one by one, consumers read both"),
}
LOG_HOLES = {"ack_lower", "ack_one", "past_failure", "pipeline", "seek_race", "repart_live", "outbox_rollback"}


class Violation(Exception):
    def __init__(self, kind, detail):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Conn:
    """A sender's connection. All is kept per stream (here: run of the client)."""

    def __init__(self, edge, todo):
        self.edge, self.todo, self.alive = edge, todo, True  # todo: what the client has yet to send on it
        self.expected, self.acked = {}, {}  # next seq; highest with all before it acknowledged
        self.waiting = {}  # (run, seq) -> records not acknowledged
        self.inbox = []  # `accepted run n` on the wire


class Sender:
    def __init__(self):
        self.run, self.next, self.composed = 0, 0, 0
        self.outbox, self.accepted, self.conn = {}, set(), None


class Sync:
    """A request at the edge."""

    def __init__(self, after):
        self.after, self.stage = after, "new"  # new, wait, read
        self.gen = self.E = self.old = self.answer = None


class Session:
    def __init__(self, sid, dev, edge):
        self.sid, self.dev, self.edge = sid, dev, edge
        self.registered, self.writing, self.hint = False, False, False
        self.out, self.sync, self.acked, self.published = [], None, -1, -1


class Edge:
    def __init__(self, name, inc):
        self.name, self.inc, self.up, self.cut = name, inc, True, False
        self.gen, self.tpos = 0, 0
        self.reset()

    def reset(self):
        self.pending, self.flight = {p: [] for p in LOGS}, {p: [] for p in LOGS}  # flight: [batch, appended]
        self.conns, self.sess = {}, {}
        self.E, self.E_for, self.epoch = None, (), 0


class Router:
    def __init__(self, pos, memory=None):
        self.pos, self.doomed = dict(pos), False
        self.fetched, self.plan = {p: [] for p in LOGS}, {e: [] for e in EDGES}
        self.open = {p: [] for p in LOGS}  # [offset, deliveries not yet written], in log order
        self.memory = {} if memory is None else dict(memory)  # (log, timeline) -> position
        self.cache, self.alive = None, {}


class Device:
    def __init__(self):
        self.known, self.fresh, self.base = -1, False, -1
        self.expected, self.shown, self.before = {}, [], set()
        self.offline()

    def offline(self):
        self.on, self.buffer, self.seen, self.want, self.busy = None, [], -1, False, False


class World:
    def __init__(self, flaws=frozenset(), budget=None):
        self.flaws, self.budget = frozenset(flaws), dict(budget or {})
        self.ids = 0
        self.log, self.ghosts, self.late = {p: [] for p in LOGS}, [], []
        self.senders = [Sender() for _ in SENDERS]
        self.devices = [Device() for _ in DEVICES]
        self.edges = [Edge(e, self.new_id()) for e in EDGES]
        self.topic, self.tstart = {e: [] for e in EDGES}, dict.fromkeys(EDGES, 0)
        self.redis_up, self.epoch, self.loc, self.q = True, 0, {}, []
        self.lease = {e.name: e.inc for e in self.edges}
        self.commit = dict.fromkeys(LOGS, 0)
        self.router, self.zombie, self.left = Router(self.commit), None, {}
        self.p_off, self.p_read = dict.fromkeys(LOGS, 0), dict.fromkeys(LOGS, 0)
        self.rows, self.cold, self.heads = {}, {}, {}  # (timeline, position) -> record; (timeline, s, run) -> seq
        self.cursor, self.receipts = dict.fromkeys(DEVICES, -1), []
        self.repart = False

    def new_id(self):
        self.ids += 1
        return self.ids

    def flaw(self, name):
        return name in self.flaws

    def reach(self, edge):
        return self.redis_up and not edge.cut

    # ---------------------------------------------------------------- what may happen now

    FAULTS = {
        "s_resend", "s_drop", "s_restart", "e_crash", "e_fail", "truncate", "lease_expire", "cut", "r_fail", "r_crash",
        "r_rebalance", "r_forget", "p_rebalance", "archive", "redis_flush", "redis_partial", "redis_down", "repart",
        "d_drop", "d_amnesia", "x_delay", "x_stale", "x_lose", "reg_slow",
    }  # fmt: skip

    def enabled(self, faults=True):
        """What may happen. Faults cost budget. Without faults: what happens by itself until all is quiet."""
        a = []
        add = a.append
        can = (lambda f: self.budget.get(f, 0) > 0) if faults else (lambda f: False)
        for i, s in enumerate(self.senders):
            if s.composed < self.budget.get("messages", MESSAGES) and faults:
                add(("s_compose", i))
            c = s.conn
            if c is None:
                if s.outbox or faults:
                    a += [("s_connect", i, e.name) for e in self.edges if e.up]
            else:
                if c.todo:
                    add(("s_send", i))
                if can("s_resend"):
                    a += [("s_resend", i, *k) for k in s.outbox if k not in c.todo]
                if c.inbox:
                    add(("s_recv", i))
                if can("s_drop"):
                    add(("s_drop", i))
            if can("s_restart"):
                add(("s_restart", i))
        for e in self.edges:
            n = e.name
            if not e.up:
                add(("e_start", n))
                continue
            if can("e_crash"):
                a += [("e_crash", n, 0), ("e_crash", n, 1)]
            for p in LOGS:
                fl = e.flight[p]
                if e.pending[p] and len(fl) < (2 if self.flaw("pipeline") else 1):
                    a += [("e_flush", n, p, 1), ("e_flush", n, p, 2)]
                if fl:
                    add(("e_ack", n, p) if fl[0][1] else ("e_append", n, p))
                    if can("e_fail"):
                        a += [("e_fail", n, p, 0), ("e_fail", n, p, 1)]
            if e.tpos is None:
                add(("e_resolve", n))
            elif e.tpos < len(self.topic[n]):
                add(("e_consume", n))
            if can("truncate") and self.tstart[n] < len(self.topic[n]):
                add(("truncate", n))
            if faults:
                add(("e_renew", n))
                if can("lease_expire") and n in self.lease:
                    add(("lease_expire", n))
                if can("cut") and not e.cut:
                    add(("cut", n))
            if e.cut:
                add(("uncut", n))
            if e.E is not None:
                add(("e_E_end", n))
            else:
                new = [x for x in e.sess.values() if x.sync and x.sync.stage == "new"]
                if any(self.gate(e, x) for x in new) or (self.flaw("e_shared") and faults and e.sess):
                    add(("e_E_start", n, 0))
                if new and can("reg_slow"):
                    add(("e_E_start", n, 1))
            if self.repart and self.flaw("repart_live") and e.gen == 0 and not self.producing(e):
                add(("e_switch", n))
            for d, x in e.sess.items():
                if not x.registered and not x.writing and self.reach(e):
                    add(("x_reg", n, d))
                y = x.sync
                if y and y.stage == "wait":
                    if self.end(y, TIMELINE[d], self.p_off, self.repart) >= y.E:
                        add(("x_read", n, d))
                    elif can("x_delay") and (not self.flaw("heads_behind") or self.devices[d].fresh):
                        add(("x_delay", n, d))
                    if can("x_stale"):
                        add(("x_stale", n, d))
                if y and y.stage == "read":
                    add(("x_answer", n, d))
                if x.acked > x.published:
                    add(("x_publish", n, d))
                if self.devices[d].on != n:
                    add(("x_dead", n, d))
                elif self.flaw("lose_one") and can("x_lose") and x.out and x.out[0][0] == "delivery":
                    add(("x_lose", n, d))
        a += [("ghost", i) for i in range(len(self.ghosts))]
        a += [("late", i) for i in range(len(self.late))]
        for which, r in enumerate((self.router, self.zombie)):
            if r is None:
                continue
            for p in LOGS:
                if not r.doomed:
                    if r.pos[p] < len(self.log[p]) and (which == 0 or faults):
                        add(("r_fetch", which, p))
                    if r.fetched[p]:
                        add(("r_lookup", which, p))
                    if which == 0 and r.open[p] and r.open[p][0][1] == 0:
                        add(("r_commit", p))
            for n in EDGES:
                if r.plan[n]:
                    add(("r_write", which, n))
                    if can("r_fail"):
                        a += [("r_fail", which, n, ghost, slip) for ghost in (0, 1) for slip in (0, 1)]
        if can("r_crash") or self.router.doomed:
            add(("r_crash",))
        if can("r_rebalance"):
            add(("r_rebalance",))
        if can("r_forget"):
            a += [("r_forget", k) for k in sorted(self.router.memory)]
        if self.zombie:
            add(("r_zombie_end",))
        if self.router.cache is not None:
            add(("r_uncache",))
        for p in LOGS:
            if self.p_read[p] < len(self.log[p]):
                add(("p_step", p))
        if self.receipts:
            add(("p_receipt",))
        if can("p_rebalance") and self.flaw("seek_race"):
            a += [("p_rebalance", p) for p in LOGS if self.log[p]]
        if can("archive") and self.rows:
            add(("archive",))
        if self.redis_up:
            a += [("q", i) for i in range(len(self.q)) if not self.edges[self.q[i][2][0]].cut]
            if can("redis_flush"):
                add(("redis_flush",))
            if can("redis_partial"):
                a += [("redis_partial", k) for k in sorted(self.loc)]
            if can("redis_down"):
                add(("redis_down",))
        else:
            add(("redis_up",))
        if can("repart") and not self.repart and (self.flaw("repart_live") or self.drained()):
            add(("repart",))
        for i, d in enumerate(self.devices):
            x = self.session(i)
            if x is None:
                a += [("d_connect", i, e.name) for e in self.edges if e.up]
            else:
                if x.out:
                    add(("d_recv", i))
                if not d.busy and (d.want or d.seen > d.known):
                    add(("d_sync", i))
                elif not d.busy and faults:
                    add(("d_backstop", i))
                if d.known > x.acked:
                    add(("d_ack", i))
                if can("d_drop"):
                    add(("d_drop", i))
            if can("d_amnesia") and (not self.flaw("heads_behind") or self.ahead(i)):
                add(("d_amnesia", i))
        return a

    def do(self, act):
        name = act[0]
        if name == "e_E_start" and act[2]:
            name = "reg_slow"
        if self.budget.get(name, 0) > 0:
            self.budget[name] -= 1
        getattr(self, "do_" + act[0])(*act[1:])

    # ---------------------------------------------------------------- senders, the edge's intake, its producer

    def do_s_compose(self, i):
        s = self.senders[i]
        key = (s.run, s.next)
        s.outbox[key] = (i, *key, self.new_id())  # numbered and on disk before it is first sent
        s.next += 1
        s.composed += 1
        if s.conn:
            s.conn.todo.append(key)

    def do_s_connect(self, i, e):
        s = self.senders[i]
        s.conn = self.edges[e].conns[i] = Conn(e, sorted(s.outbox))

    def do_s_drop(self, i):
        s = self.senders[i]
        if s.conn:
            s.conn.alive, s.conn = False, None

    def do_s_restart(self, i):
        """The client's process is new: a new stream. What is left in the outbox keeps its numbers."""
        s = self.senders[i]
        self.do_s_drop(i)
        if not self.flaw("outbox_rollback"):
            s.run, s.next = s.run + 1, 0
        elif s.next and (s.run, s.next - 1) not in s.outbox:
            s.next -= 1

    def do_s_send(self, i):
        s = self.senders[i]
        self.intake(s.conn, s.outbox[s.conn.todo.pop(0)])

    def do_s_resend(self, i, run, seq):
        self.intake(self.senders[i].conn, self.senders[i].outbox[run, seq])

    def do_s_recv(self, i):
        s = self.senders[i]
        run, n = s.conn.inbox.pop(0)
        for k in [k for k in s.outbox if k[0] == run and k[1] <= n]:
            s.accepted.add(s.outbox.pop(k))
        s.conn.todo = [k for k in s.conn.todo if k in s.outbox]

    def intake(self, c, rec):
        s, run, seq, _ = rec
        e = self.edges[c.edge]
        if run not in c.expected:
            c.expected[run], c.acked[run] = seq, seq - 1
        if seq == c.expected[run]:
            c.expected[run] += 1
            c.waiting[run, seq] = 2
            for t in ("u", OWN[s]):
                e.pending[e.gen, PLACE[e.gen][t]].append((c, t, rec))
        elif seq < c.expected[run]:
            c.inbox.append((run, seq if self.flaw("ack_lower") else c.acked[run]))

    def producing(self, e):
        return any(e.pending[p] or e.flight[p] for p in LOGS)

    def do_e_flush(self, e, p, n):
        e = self.edges[e]
        e.flight[p].append([e.pending[p][:n], False])
        del e.pending[p][:n]

    def append(self, p, batch):
        if p[0] == 1 or not (self.repart and not self.flaw("repart_live")):  # a fenced old topic takes nothing
            self.log[p] += [(t, rec) for _, t, rec in batch]

    def do_e_append(self, e, p):
        head = self.edges[e].flight[p][0]
        self.append(p, head[0])
        head[1] = True

    def do_e_ack(self, e, p):
        for c, _, (_, run, seq, _) in self.edges[e].flight[p].pop(0)[0]:
            if not c.alive:
                continue
            c.waiting[run, seq] -= 1
            if self.flaw("ack_one"):
                c.waiting[run, seq] = 0
            if self.flaw("past_failure"):
                if c.waiting[run, seq] <= 0:
                    c.acked[run] = max(c.acked[run], seq)
            else:
                while c.waiting.get((run, c.acked[run] + 1), 1) <= 0:
                    c.acked[run] += 1
            c.inbox.append((run, c.acked[run]))

    def do_e_fail(self, e, p, ghost):
        """The head batch ends in an error; it may be in the log, or come into it later, or never."""
        e = self.edges[e]
        if self.flaw("past_failure"):
            self.haunt(p, e.flight[p].pop(0), ghost)
            return
        for k in LOGS:  # nothing after it: the producer is ended, every sender goes back to its outbox
            for batch in e.flight[k]:
                self.haunt(k, batch, ghost if k != p or batch is e.flight[k][0] else 1)
            e.flight[k], e.pending[k] = [], []
        self.close_conns(e)

    def haunt(self, p, flight, ghost):
        batch, appended = flight
        if not appended and ghost:
            self.ghosts.append((p, batch))

    def close_conns(self, e):
        for i, c in e.conns.items():
            c.alive = False
            if self.senders[i].conn is c:
                self.senders[i].conn = None
        e.conns = {}

    def do_ghost(self, i):
        self.append(*self.ghosts.pop(i))

    def do_e_crash(self, e, ghost):
        e = self.edges[e]
        for p in LOGS:
            for flight in e.flight[p]:
                self.haunt(p, flight, ghost)
        self.close_conns(e)
        for x in e.sess.values():
            if self.devices[x.dev].on == e.name:
                self.devices[x.dev].offline()
        e.reset()
        e.up = False

    def do_e_start(self, e):
        e = self.edges[e]
        e.up, e.inc, e.epoch, e.cut = True, self.new_id(), self.epoch, False
        if self.redis_up:
            self.lease[e.name] = e.inc
        e.tpos = None if self.flaw("edge_latest") else len(self.topic[e.name])

    # a new generation of the topic

    def drained(self):
        old = [(0, p) for p in PARTS]
        return all(self.p_off[p] == self.commit[p] == len(self.log[p]) for p in old) and not any(
            self.producing(e) for e in self.edges
        )

    def do_repart(self):
        self.repart = True
        if not self.flaw("repart_live"):
            for e in self.edges:
                e.gen = 1

    def do_e_switch(self, e):
        self.edges[e].gen = 1

    # ---------------------------------------------------------------- router

    def do_r_fetch(self, which, p):
        r = (self.router, self.zombie)[which]
        off = r.pos[p]
        t, rec = self.log[p][off]
        pos = p[0] * GEN + off
        prev = r.memory.get((p, t), -1 if self.flaw("prev_forgot") else None)
        r.memory[p, t] = pos
        r.fetched[p].append((off, pos, prev, t, rec))
        r.pos[p] += 1

    def do_r_forget(self, key):
        self.router.memory.pop(key, None)  # bounded memory

    def do_r_lookup(self, which, p):
        r = (self.router, self.zombie)[which]
        off, pos, prev, t, rec = r.fetched[p].pop(0)
        if self.redis_up:
            r.alive = dict(self.lease)
            where = {v[0]: v[1] for v in self.loc.values() if self.lease.get(v[0]) == v[1] and TIMELINE[v[3]] == t}
            if self.flaw("neg_cache"):
                if r.cache is None:
                    r.cache = {}
                where = r.cache.setdefault(t, where)
        elif self.flaw("stale_broadcast"):
            where = r.alive
        else:  # the edges' topics, listed from Kafka after the fetch
            where = dict.fromkeys(EDGES)
        r.open[p].append([off, len(where)])
        for e, inc in where.items():
            r.plan[e].append((p, off, (t, pos, prev, rec, inc)))

    def do_r_uncache(self):
        self.router.cache = None

    def do_r_write(self, which, e):
        r = (self.router, self.zombie)[which]
        p, off, delivery = r.plan[e].pop(0)
        self.topic[e].append(delivery)
        for o in r.open[p]:
            if o[0] == off:
                o[1] -= 1

    def do_r_fail(self, which, e, ghost, slip):
        """A delivery ends in an error; it may come into the topic later, and deliveries after it may get through
        (slip). The router stops: what it did not commit is read again by its successor."""
        r = (self.router, self.zombie)[which]
        _, _, delivery = r.plan[e].pop(0)
        if ghost:
            self.late.append((e, delivery))
        r.doomed = True
        if not slip:
            r.plan[e] = []

    def do_late(self, i):
        e, delivery = self.late.pop(i)
        self.topic[e].append(delivery)

    def do_r_commit(self, p):
        self.commit[p] = self.router.open[p].pop(0)[0] + 1

    def do_r_crash(self):
        self.router = Router(self.commit)

    def do_r_rebalance(self):
        """To another router, and perhaps back to the one before; the loser does not know it yet."""
        memory = self.left if self.flaw("prev_kept") else None
        self.left, self.zombie = self.router.memory, self.router
        self.router = Router(self.commit, memory)

    def do_r_zombie_end(self):
        self.zombie = None

    # ---------------------------------------------------------------- the edge: a pipe, locations, leases

    def do_e_resolve(self, e):
        self.edges[e].tpos = len(self.topic[e])

    def do_e_consume(self, e):
        e = self.edges[e]
        topic = self.topic[e.name]
        if e.tpos < self.tstart[e.name]:
            e.tpos = self.tstart[e.name] if self.flaw("edge_jump") else len(topic)
            if not self.flaw("edge_jump"):
                for x in e.sess.values():
                    x.out.append(("hint",))
            return
        t, pos, prev, rec, inc = topic[e.tpos]
        e.tpos += 1
        if inc is None or inc == e.inc:
            for x in e.sess.values():
                if TIMELINE[x.dev] == t:
                    x.out.append(("delivery", pos, prev, rec))

    def do_truncate(self, e):
        self.tstart[e] = len(self.topic[e])

    def do_e_renew(self, e):
        e = self.edges[e]
        if not self.reach(e):
            return
        held = self.lease.get(e.name) == e.inc or self.flaw("lease_blind")
        same = e.epoch == self.epoch or self.flaw("epoch_blind")
        self.lease[e.name], e.epoch = e.inc, self.epoch
        if not (held and same):
            for x in e.sess.values():
                x.registered = False
                if self.budget.get("hint_early"):  # allowed: the sync waits for the location anyway
                    x.out.append(("hint",))
                else:
                    x.hint = True

    def do_lease_expire(self, e):
        del self.lease[e]

    def do_cut(self, e):
        self.edges[e].cut = True

    def do_uncut(self, e):
        self.edges[e].cut = False

    def do_redis_flush(self):
        self.loc, self.lease = {}, {}
        self.epoch += 1

    def do_redis_partial(self, key):
        del self.loc[key]
        self.epoch += 1

    def do_redis_down(self):
        self.redis_up = False

    def do_redis_up(self):
        self.redis_up = True

    def loc_entry(self, x):
        val = (x.edge, self.edges[x.edge].inc, x.sid, x.dev)
        return (("dev", x.dev) if self.flaw("loc_by_device") else ("sid", x.sid)), val

    def do_x_reg(self, e, d):
        x = self.edges[e].sess[d]
        x.writing = True
        self.q.append(("set", *self.loc_entry(x)))

    def do_q(self, i):
        """A command to Redis takes effect; those of different sessions are not in order."""
        op, key, val = self.q.pop(i)
        if op == "del":
            if self.loc.get(key) == val:
                del self.loc[key]
            return
        self.loc[key] = val
        e, inc, sid, dev = val
        x = self.edges[e].sess.get(dev)
        if x and x.sid == sid and self.edges[e].inc == inc:
            x.writing, x.registered = False, True
            if x.hint:
                x.hint = False
                x.out.append(("hint",))

    def ahead(self, i):
        """The device's cursor lies beyond what persist has: where it matters which snapshot its heads come from."""
        gen = int(self.repart)
        return self.cursor[i] >= gen * GEN + self.p_off[gen, PLACE[gen][TIMELINE[i]]]

    def session(self, d):
        on = self.devices[d].on
        return None if on is None else self.edges[on].sess.get(d)

    def close_session(self, e, d):
        self.q.append(("del", *self.loc_entry(e.sess.pop(d))))

    def do_d_connect(self, i, e):
        e, d = self.edges[e], self.devices[i]
        if i in e.sess:
            self.close_session(e, i)
        d.offline()
        d.on, d.want = e.name, True
        if d.known is None:  # without its state: from the server's cursor
            d.known = d.base = self.cursor[i]
        e.sess[i] = Session(self.new_id(), i, e.name)

    def do_d_drop(self, i):
        self.devices[i].offline()

    def do_d_amnesia(self, i):
        d = self.devices[i]
        d.offline()
        d.before |= set(d.shown)
        d.known, d.fresh, d.expected, d.shown = None, not self.flaw("amnesia_live"), {}, []

    def do_x_dead(self, e, d):
        self.close_session(self.edges[e], d)

    def do_x_lose(self, e, d):
        self.edges[e].sess[d].out.pop(0)

    # ---------------------------------------------------------------- sync at the edge

    def gate(self, e, x):
        return x.registered or not self.reach(e) or self.flaw("e_ungated")

    def do_e_E_start(self, e, slow):
        """One request for all syncs that have come and may go. Redis away, or slow: without a location, but with a
        hint when it is written."""
        e = self.edges[e]
        e.E, e.E_for = (e.gen, {p: len(self.log[e.gen, p]) for p in PARTS}), []
        for x in e.sess.values():
            if x.sync and x.sync.stage == "new" and (slow or self.gate(e, x)):
                e.E_for.append(x.sync)
                if not x.registered and not self.flaw("rereg_no_hint") and not self.flaw("e_ungated"):
                    x.hint = True

    def do_e_E_end(self, e):
        e = self.edges[e]
        (gen, ends), e.E = e.E, None
        for x in e.sess.values():
            y = x.sync
            ready = y and y.stage == "new" and (y in e.E_for or (self.flaw("e_shared") and self.gate(e, x)))
            if ready:
                y.gen, y.E, y.stage = gen, gen * GEN + ends[PLACE[gen][TIMELINE[x.dev]]], "wait"
                y.old = self.snapshot()

    def snapshot(self):
        return dict(self.rows), dict(self.cold), dict(self.p_off), dict(self.heads), self.repart

    def end(self, y, t, offsets, repart):
        """The position up to which a snapshot is complete, in the newest generation it knows."""
        gen = y.gen if self.flaw("upto_old_gen") else int(repart)
        return gen * GEN + offsets[gen, PLACE[gen][t]]

    def do_x_read(self, e, d, stale=False):
        y = self.edges[e].sess[d].sync
        t = TIMELINE[d]
        hot, cold, offsets, heads, repart = y.old if stale else self.snapshot()
        if self.flaw("cold_early"):
            cold = y.old[1]
        if self.flaw("sync_hot_only"):
            cold = {}
        end = self.end(y, t, offsets, repart)
        rows = sorted((p, rec) for (tl, p), rec in {**cold, **hot}.items() if tl == t and y.after < p < end)
        cut = len(rows) > PAGE
        rows = rows[:PAGE]
        upto = rows[-1][0] + 1 if cut and not self.flaw("upto_cut") else end
        if self.flaw("upto_E") and not cut:
            upto = max(upto, y.E)
        heads = None if cut else {k[1:]: n for k, n in heads.items() if k[0] == t}
        y.answer, y.stage = [rows, upto, cut, heads], "read"

    def do_x_delay(self, e, d):
        self.do_x_read(e, d)

    def do_x_stale(self, e, d):
        self.do_x_read(e, d, stale=True)

    def do_x_answer(self, e, d):
        x = self.edges[e].sess[d]
        y, x.sync = x.sync, None
        rows, upto, cut, heads = y.answer
        if self.flaw("upto_later") and not cut:
            upto = self.end(y, TIMELINE[d], self.p_off, self.repart)
        x.out.append(("answer", rows, upto, upto >= y.E, heads))

    def do_x_publish(self, e, d):
        x = self.edges[e].sess[d]
        x.published = x.acked
        self.receipts.append((d, x.acked))
        self.check_cursor(d, x.acked)

    # ---------------------------------------------------------------- devices

    def do_d_sync(self, i):
        d = self.devices[i]
        d.want, d.busy = False, True
        if not self.flaw("known_rows"):
            d.seen = d.known  # E will be above all that was seen
        self.session(i).sync = Sync(d.known)

    def do_d_backstop(self, i):
        self.do_d_sync(i)

    def do_d_ack(self, i):
        self.session(i).acked = self.devices[i].known

    def do_d_recv(self, i):
        d = self.devices[i]
        kind, *what = self.session(i).out.pop(0)
        if kind == "hint":
            if not (d.busy and self.flaw("hint_absorbed")):
                d.want = True
        elif kind == "delivery":
            self.on_delivery(i, *what)
        else:
            self.on_answer(i, *what)

    def on_delivery(self, i, pos, prev, rec):
        d = self.devices[i]
        if pos <= d.known:
            return
        if self.flaw("take_unchained") and not d.fresh:
            d.want |= prev is None or prev > d.known
            prev = -1
        if not d.fresh and prev is not None and prev <= d.known:
            self.take(i, pos, rec)
            self.unbuffer(i)
        else:
            if not (d.busy and self.flaw("unchained_forgotten")):
                d.seen = max(d.seen, pos)
            if len(d.buffer) < self.budget.get("buffer", 0):
                d.buffer.append((pos, prev, rec))

    def on_answer(self, i, rows, upto, complete, heads):
        d = self.devices[i]
        d.busy = False
        if self.flaw("buffer_first"):
            rows = [row for row in rows if row[0] > d.known]
            d.known = max(d.known, upto - 1)
            self.unbuffer(i)
            for _, rec in rows:
                self.show(i, rec)
        reaches = upto > d.known or self.flaw("heads_behind")
        for pos, rec in rows:
            if pos > d.known:
                self.take(i, pos, rec)
        if not self.flaw("known_rows"):
            d.known = max(d.known, upto - 1)
        if d.fresh and heads is not None and reaches:
            d.fresh, d.expected = False, dict(heads)
        self.unbuffer(i)
        if (not complete or d.fresh) and not self.flaw("incomplete_ends"):
            d.want = True

    def unbuffer(self, i):
        d = self.devices[i]
        if d.fresh:
            return
        while fit := [b for b in d.buffer if b[0] > d.known and b[1] is not None and b[1] <= d.known]:
            self.take(i, fit[0][0], fit[0][2])
        d.buffer = [b for b in d.buffer if b[0] > d.known]

    def take(self, i, pos, rec):
        self.devices[i].known = pos
        self.show(i, rec)

    def show(self, i, rec):
        d = self.devices[i]
        s, run, seq, _ = rec
        expected = d.expected.get((s, run), seq if d.fresh or self.flaw("amnesia_live") else 0)
        if seq < expected:
            return  # a duplicate in the log
        if seq > expected and not self.flaws & LOG_HOLES:
            raise Violation("HOLE", f"device {i}: {rec} after {expected - 1}")
        d.expected[s, run] = seq + 1
        if rec in d.shown:
            raise Violation("SHOWN TWICE", f"device {i}: {rec}")
        first = min(p for p, r in self.in_log(TIMELINE[i]) if r == rec)
        if first <= d.base:
            raise Violation("SHOWN AGAIN", f"device {i}: {rec} at {first}, begun from {d.base}")
        d.shown.append(rec)

    def in_log(self, t):
        return [(p[0] * GEN + off, rec) for p in LOGS for off, (tl, rec) in enumerate(self.log[p]) if tl == t]

    # ---------------------------------------------------------------- persist

    def do_p_step(self, p):
        off = self.p_read[p]
        t, rec = self.log[p][off]
        s, run, seq, _ = rec
        hot = any(tl == t and r[:3] == rec[:3] for (tl, _), r in self.rows.items())
        cold = any(tl == t and r[:3] == rec[:3] for (tl, _), r in self.cold.items())
        head = self.heads.get((t, s, run), 0)
        if not hot if self.flaw("archive_forgets") else seq >= head:
            if cold or hot:
                raise Violation("HISTORY TWICE", f"{t} {rec}")
            if seq > head and not self.flaws & (LOG_HOLES - {"pipeline"}):
                raise Violation("HOLE IN THE LOG", f"{t} {s} {run}: {seq} before {head}")
            self.heads[t, s, run] = seq + 1
            self.rows[t, p[0] * GEN + off] = rec
        self.p_off[p] = self.p_read[p] = off + 1

    def do_p_rebalance(self, p):
        self.p_read[p] = len(self.log[p])

    def do_p_receipt(self):
        d, pos = self.receipts.pop(0)
        self.cursor[d] = max(self.cursor[d], pos)

    def do_archive(self):
        key = min(self.rows, key=lambda k: k[1])
        self.cold[key] = self.rows.pop(key)

    # ---------------------------------------------------------------- checks

    def check_cursor(self, i, pos):
        d = self.devices[i]
        have = {r[:3] for r in d.shown} | {r[:3] for r in d.before}
        for at, rec in self.in_log(TIMELINE[i]):
            if at <= pos and rec[:3] not in have:
                raise Violation("CURSOR PASSES", f"device {i}: cursor {pos}, message {rec} at {at} unseen")

    def check_end(self, kind):
        stored = {(t, rec): p for store in (self.rows, self.cold) for (t, p), rec in store.items()}
        for s in self.senders:
            for rec in sorted(s.accepted):
                for t in ("u", OWN[rec[0]]):
                    if (t, rec) not in stored:
                        hidden = any(k[0] == t and k[1][:3] == rec[:3] for k in stored)
                        raise Violation("HIDDEN" if hidden else "LOST", f"accepted {rec} is not in the history of {t}")
                    for i, d in enumerate(self.devices):
                        seen = rec in d.shown or (stored[t, rec] <= d.base and rec in d.before)
                        if TIMELINE[i] == t and not seen:
                            raise Violation(kind, f"accepted {rec} at {stored[t, rec]} not shown on device {i}")

    def settle(self, rng, trace):
        """Faults stop; what is away comes back; everything that can move moves, some kinds of step before others. No
        periodic sync, no new message, no log-in of those on line."""
        weight = {}
        for _ in range(3000):
            acts = self.enabled(faults=False)
            acts = [a for a in acts if a[0] != "d_connect"] or acts
            if acts:
                ws = [weight.setdefault(a[0], rng.choice((0.02, 0.3, 1, 5))) for a in acts]
                a = rng.choices(acts, ws)[0]
                trace.append(a)
                self.do(a)
                continue
            for e in self.edges:
                if e.up:
                    trace.append(("e_renew", e.name))
                    self.do_e_renew(e.name)
            if self.enabled(faults=False):
                continue
            if not any(self.router.open.values()):
                return
            trace.append(("r_crash",))
            self.do_r_crash()
        raise Violation("NO END", "the system does not come to rest")


# -------------------------------------------------------------------- explorer

FAULT_KINDS = sorted(World.FAULTS)
RARE = {**dict.fromkeys(World.FAULTS, 0.25), "e_resolve": 0.1, "ghost": 0.3, "late": 0.3, "d_backstop": 0.1,
        "r_zombie_end": 0.3}  # fmt: skip
SLOW = {  # steps that a flaw needs to be late
    "e_shared": ("p_step", "e_E_end"), "neg_cache": ("p_step", "r_uncache"), "edge_latest": ("e_resolve",),
    "upto_later": ("x_answer",), "cold_early": ("x_read",), "unchained_forgotten": ("x_answer",),
    "hint_absorbed": ("x_answer",), "prev_kept": ("e_renew", "d_backstop"), "upto_old_gen": ("x_read",),
    "upto_E": ("p_step",), "incomplete_ends": ("p_step",), "amnesia_live": ("d_amnesia", "ghost", "e_fail"),
    "heads_behind": ("p_step",),
}  # fmt: skip
NEEDS = {  # faults that a flaw needs
    "ack_lower": ("s_resend", "e_crash"), "ack_one": ("e_fail",), "past_failure": ("e_fail",), "pipeline": ("e_fail",),
    "outbox_rollback": ("s_restart",), "prev_forgot": ("r_crash", "truncate"),
    "prev_kept": ("r_rebalance", "lease_expire", "redis_partial"), "stale_broadcast": ("redis_down", "r_crash"),
    "edge_jump": ("truncate",), "edge_latest": ("e_crash",), "lose_one": ("x_lose",), "lease_blind": ("lease_expire",),
    "epoch_blind": ("redis_partial",), "loc_by_device": ("d_drop",), "rereg_no_hint": ("cut", "reg_slow"),
    "sync_hot_only": ("archive",), "cold_early": ("archive",), "upto_E": ("x_delay",), "incomplete_ends": ("x_delay",),
    "take_unchained": ("r_crash",), "buffer_first": ("r_crash",), "hint_absorbed": ("redis_partial", "truncate"),
    "amnesia_live": ("d_amnesia", "s_drop", "e_fail"), "heads_behind": ("d_amnesia", "x_delay"),
    "archive_forgets": ("archive", "s_drop"),
    "seek_race": ("p_rebalance",),
    "repart_live": ("repart",), "known_rows": ("s_drop", "r_crash"), "upto_old_gen": ("repart", "d_amnesia"),
}  # fmt: skip
AT_REST = ("STUCK", "LOST", "HIDDEN", "NO END")  # kinds that are seen only when all is quiet


def budget_for(rng, flaws):
    """Each run draws a few kinds of fault, how often they may come, and the choices that the rules leave free."""
    kinds = rng.sample(FAULT_KINDS, rng.randint(1, 7) if "heads_behind" not in flaws else 1)
    b = {k: rng.randint(1, 2) for k in kinds}
    for flaw, fault in NEEDS.items():
        if flaw in flaws and rng.random() < 0.8:
            for f in fault:
                b[f] = {"prev_kept": 4, "heads_behind": 4}.get(flaw, 2)
    b["messages"] = rng.choice((1, 2, MESSAGES) if "heads_behind" not in flaws else (MESSAGES,))
    b["buffer"] = rng.choice((0, 2))  # 0: the device drops what does not chain
    b["hint_early"] = rng.choice((0, 1))
    return b


def run(flaws, seed, steps=180, count=None, choices=None):
    rng = random.Random(seed)
    budget = {**budget_for(rng, flaws), **(choices or {})}
    world = World(flaws, budget)
    weight, trace = {}, []
    slow = {name for f in flaws for name in SLOW.get(f, ())}
    needed = {name for f in flaws for name in NEEDS.get(f, ())}

    def step(a):
        trace.append(a)
        world.do(a)

    def draw(name):
        rare = 1 if name in needed else RARE.get(name, 1)
        return rng.choice((0.1, 1, 1, 4)) * rare * (0.1 if name in slow else 1)

    try:
        chained = "heads_behind" in flaws  # it shows only where live deliveries run ahead of persist
        if chained or rng.random() < 0.6:  # begin with everybody on line: the rarer half of a session's life
            for d in DEVICES:
                if rng.random() < 0.8:
                    step(("d_connect", d, rng.choice(EDGES)))
            for i in SENDERS:
                step(("s_connect", i, rng.choice(EDGES)))
            world.settle(rng, trace)
            if chained or rng.random() < 0.2:  # and with chains that need no sync
                for i in SENDERS:
                    step(("s_compose", i))
                world.settle(rng, trace)
        for _ in range(rng.randint(20, steps)):
            acts = world.enabled()
            ws = [weight.setdefault(a[0], draw(a[0])) for a in acts]
            step(rng.choices(acts, ws)[0])
        finish(world, seed, trace)
    except Violation as v:
        return v, trace, budget
    finally:
        if count is not None:
            count.update(a[0] for a in trace)
            count["(messages accepted)"] += sum(len(s.accepted) for s in world.senders)
            count["(messages shown)"] += sum(len(d.shown) for d in world.devices)
    return None, trace, budget


def backstop(world):
    for d in DEVICES:
        if world.session(d) and not world.devices[d].busy:
            world.do_d_backstop(d)


def finish(world, seed, trace):
    rng = random.Random(seed)
    world.settle(rng, trace)
    world.check_end("STUCK")
    trace.append(("backstop",))
    backstop(world)
    world.settle(rng, trace)
    world.check_end("LOST")


def replay(flaws, budget, trace, seed, settle):
    """Run a schedule, leaving out what is not possible; the violation or None, and what was really done."""
    world, done = World(flaws, budget), []
    try:
        for a in trace:
            if a in world.enabled():
                done.append(a)
                world.do(a)
        if settle:
            finish(world, seed, [])
    except Violation as v:
        return v, done
    return None, done


def shrink(flaws, budget, trace, kind, seed, seconds=4.0):
    """The schedule with chunks, then single steps, left out as long as it ends in the same kind of violation."""
    best, end = list(trace), time.monotonic() + seconds
    size = max(1, len(best) // 2)
    while time.monotonic() < end:
        i, cut = 0, False
        while i < len(best) and time.monotonic() < end:
            v, done = replay(flaws, budget, best[:i] + best[i + size :], seed, settle=kind in AT_REST)
            if v is not None and v.kind == kind and len(done) < len(best):
                best, cut = done, True
            else:
                i += size
        if size > 1:
            size //= 2
        elif not cut:
            break
    return best


def explore(flaws, seconds, seed=0, count=None, choices=None):
    """Returns (runs, steps, kinds of violation seen, a counterexample or None). Whatever is not STUCK ends the search;
    a flaw of class `late` is searched to the end of its time, for it must do nothing worse; one of class `loss` longer,
    until it is found."""
    lossy = any(FLAWS[f][0] == "loss" for f in flaws)
    end, runs, total, kinds, worst = time.monotonic() + seconds * (5 if lossy else 1), 0, 0, Counter(), None
    while time.monotonic() < end:
        v, trace, budget = run(flaws, seed + runs, count=count, choices=choices)
        total += len(trace)
        runs += 1
        if v is not None:
            kinds[v.kind] += 1
            if worst is None or (worst[0].kind == "STUCK" and v.kind != "STUCK"):
                worst = (v, trace, budget, seed + runs - 1)
            if not flaws or v.kind != "STUCK":
                break
    if worst:
        v, trace, budget, s = worst
        worst = (v, shrink(flaws, budget, trace, v.kind, s), budget, s)
    return runs, total, kinds, worst


def cures(flaws, budget, trace, seed):
    """What brings a message that is STUCK?"""
    found = []
    for name in ("the next message", "a periodic sync", "a new log-in"):
        world, rng = World(flaws, budget), random.Random(seed)
        for a in trace:
            if a in world.enabled():
                world.do(a)
        try:
            world.settle(rng, [])
            if name == "the next message":
                for i in SENDERS:
                    world.do_s_compose(i)
            elif name == "a periodic sync":
                backstop(world)
            else:
                for d in DEVICES:
                    world.do_d_drop(d)
            world.settle(rng, [])
            world.check_end("LOST")
            found.append(name)
        except Violation:
            pass
    return ", ".join(found) or "nothing"


def tell(found, flaws):
    v, short, budget, seed = found
    v = replay(flaws, budget, short, seed, settle=True)[0] or v
    print(f"    {v}" + (f"; cured by: {cures(flaws, budget, short, seed)}" if v.kind == "STUCK" else ""))
    line = "      "
    for a in [*short, ("(quiet)",)] if v.kind in AT_REST else short:
        word = " ".join(str(p).replace(" ", "") for p in a) + "; "
        if len(line) + len(word) > 118:
            print(line)
            line = "      "
        line += word
    print(line)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--flaw", choices=sorted(FLAWS), action="append")
    p.add_argument("--seconds", type=float, default=4, help="for a flaw")
    p.add_argument("--design", type=float, metavar="SECONDS")
    p.add_argument("--buffer", type=int, help="0: a device drops what does not chain; else the size of its buffer")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    choices = {} if a.buffer is None else {"buffer": a.buffer}
    bad = 0
    if a.design is None:
        for flaws in [frozenset(a.flaw)] if a.flaw else [frozenset({f}) for f in FLAWS]:
            runs, _, kinds, found = explore(flaws, a.seconds, a.seed, choices=choices)
            print(" + ".join(sorted(flaws)) + "".join(" ({}: {})".format(*FLAWS[f]) for f in sorted(flaws)))
            print(f"    {runs} runs: " + (", ".join(f"{k} {n}" for k, n in kinds.most_common()) or "nothing found"))
            late = all(FLAWS[f][0] == "late" for f in flaws)
            bad += not kinds or (set(kinds) == {"STUCK"}) != late
            if found:
                tell(found, flaws)
            sys.stdout.flush()
    if a.design is not None or not a.flaw:
        count = Counter()
        runs, steps, _, found = explore(frozenset(), a.design or 30, a.seed, count, choices)
        print(f"the design: {runs} runs, {steps} steps, {'COUNTEREXAMPLE' if found else 'no violation'}")
        print("    " + ", ".join(f"{k} {n}" for k, n in sorted(count.items())))
        if found:
            bad += 1
            tell(found, frozenset())
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
