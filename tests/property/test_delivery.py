"""Two clients on three devices over a hostile network, an edge, router and persist that crash: every accepted message is
shown once and in order on every device. The invariants are those of tests/model; the client, the window, the encodings
are the real ones.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from chat.client.outbox import Entry
from chat.positions import position
from chat.protocol import decode_message
from tests.property.device import Device
from tests.property.world import PARTITIONS, PLACES, USERS, Connection, World

devices = st.sampled_from(sorted(USERS))
partitions = st.sampled_from(PARTITIONS)
some = st.sampled_from([1, 2, 100, 100])
fates = st.sampled_from(["in order", "in order", "backwards", "lose", "loose"])  # of deliveries
TARGETS = {1: ("u2", "g7", "u1"), 2: ("u1", "g7")}
REFUSALS = [None] * 12 + ["rate_limited", "unavailable", "bad_request", "blocked"]


class Delivery(RuleBasedStateMachine):
    """Few rules that move much, so that most steps get somewhere; faults share one."""

    @initialize(
        too_old=st.booleans(), buffer=st.sampled_from([0, 2, 50]), waiting=st.sampled_from([1, 2, 50]), online=st.booleans()
    )
    def begin(self, too_old: bool, buffer: int, waiting: int, online: bool) -> None:
        self.world, self.now = World(), 0.0
        self.world.too_old = too_old
        self.devices = {n: Device(self.world, n, buffer=buffer, waiting=waiting) for n in USERS}
        if online:
            self.settle()

    def links(self) -> list[tuple[Device, Connection]]:
        """Devices on line, with their connections; one that the edge has closed finds out here."""
        for device in self.devices.values():
            if device.connection is not None and not device.connection.alive:
                device.drop()
        return [(d, d.connection) for d in self.devices.values() if d.connection is not None]

    # ------------------------------------------------------------------ clients

    @rule(name=devices, which=st.integers(0, 2), count=st.integers(1, 3))
    def compose(self, name: str, which: int, count: int) -> None:
        device = self.devices[name]
        targets = TARGETS[device.user]
        for _ in range(count):
            if device.composed < 30:
                device.compose(targets[which % len(targets)], self.now)

    @precondition(lambda self: len(self.links()) < len(self.devices))
    @rule()
    def connect(self) -> None:
        for device in self.devices.values():
            if device not in [d for d, _ in self.links()]:
                device.connect(self.now)

    @rule(seconds=st.sampled_from([0.01, 0.2, 1.0, 6.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for device, _ in self.links():
            device.tick(self.now)

    # ------------------------------------------------------------------ the way of a message

    @rule(name=devices, which=st.integers(0, 2), count=st.integers(1, 4), fate=fates, stored=st.booleans())
    def chat(self, name: str, which: int, count: int, fate: str, stored: bool) -> None:
        """The whole way at once: most runs need some messages to have gone before."""
        device = self.devices[name]
        if device not in [d for d, _ in self.links()]:
            device.connect(self.now)
        self.compose(name, which, count)
        self.serve(100, None)
        for p in PARTITIONS:
            for _ in range(3):
                self.produce(p, 100, "acknowledged")
        self.route(100, fate)
        self.receive(100)
        if stored:
            self.persist(100)
            self.receive_syncs()

    @rule(count=st.integers(1, 3))
    def receive_syncs(self, count: int = 3) -> None:
        for _ in range(count):
            self.serve(100, None)
            self.read(0)
            self.receive(100)

    @precondition(lambda self: any(c.requests for _, c in self.links()))
    @rule(count=some, refusal=st.sampled_from(REFUSALS))
    def serve(self, count: int, refusal: str | None) -> None:
        for _, connection in self.links():
            for _ in range(min(count, len(connection.requests))):
                self.world.serve(connection, refusal)
                refusal = None

    @precondition(lambda self: any(self.world.pending.values()) or any(self.world.flight.values()))
    @rule(p=partitions, count=some, stop=st.sampled_from(["flushed", "appended", "acknowledged", "acknowledged"]))
    def produce(self, p: int, count: int, stop: str) -> None:
        world = self.world
        if world.flight[p] is None:
            world.flush(p, count)
        flight = world.flight[p]
        if flight is not None and not flight[1] and stop != "flushed":
            world.append(p)
        if stop == "acknowledged":
            world.acknowledge(p)

    @precondition(lambda self: any(self.world.routed[p] < len(self.world.log[p]) for p in PARTITIONS))
    @rule(count=some, fate=fates)
    def route(self, count: int, fate: str) -> None:
        for p in PARTITIONS:
            for _ in range(min(count, len(self.world.log[p]) - self.world.routed[p])):
                self.world.route(p)
        for _, connection in self.links():
            while connection.loose and fate in ("in order", "backwards"):
                self.world.deliver(connection, 0 if fate == "in order" else -1)
            if fate == "lose" and connection.loose:
                connection.loose.clear()
                connection.lost = True

    @precondition(lambda self: any(c.loose for _, c in self.links()))
    @rule(data=st.data(), what=st.sampled_from(["one", "again", "lose"]))
    def deliver(self, data: st.DataObject, what: str) -> None:
        connection = data.draw(st.sampled_from([c for _, c in self.links() if c.loose]))
        index = data.draw(st.integers(0, len(connection.loose) - 1))
        if what == "lose":
            del connection.loose[index]
            connection.lost = True
        else:
            self.world.deliver(connection, index, repeat=what == "again")

    @precondition(lambda self: any(c.frames for _, c in self.links()))
    @rule(count=some)
    def receive(self, count: int) -> None:
        for device, connection in self.links():
            for _ in range(count):
                if device.connection is connection and connection.frames:
                    device.receive(self.now)

    @precondition(lambda self: any(self.world.persisted[p] < len(self.world.log[p]) for p in PARTITIONS))
    @rule(count=some)
    def persist(self, count: int) -> None:
        for p in PARTITIONS:
            for _ in range(min(count, len(self.world.log[p]) - self.world.persisted[p])):
                self.world.persist(p)

    @precondition(lambda self: any(c.syncs for _, c in self.links()))
    @rule(index=st.integers(0, 1))
    def read(self, index: int) -> None:
        for _, connection in self.links():
            if connection.syncs:
                self.world.read(connection, index % len(connection.syncs))

    # ------------------------------------------------------------------ what goes wrong

    @rule(name=devices, what=st.sampled_from(["drop", "boot", "lose_disk"]))
    def client_fails(self, name: str, what: str) -> None:
        getattr(self.devices[name], what)()

    @rule(ghosts=st.booleans())
    def edge_restarts(self, ghosts: bool) -> None:
        self.world.fail(ghosts=ghosts)

    @rule(p=partitions, back=st.integers(0, 6))
    def router_restarts(self, p: int, back: int) -> None:
        self.world.rewind_router(p, max(0, self.world.routed[p] - back))

    @precondition(lambda self: self.world.ghosts)
    @rule()
    def a_late_batch_comes_into_the_log(self) -> None:
        self.world.haunt(0)

    @precondition(lambda self: self.world.zombies)
    @rule(count=some)
    def serve_a_connection_whose_device_is_gone(self, count: int) -> None:
        connection = self.world.zombies.pop(0)
        for _ in range(min(count, len(connection.requests))):
            self.world.serve(connection)

    @rule(timeline=st.sampled_from(sorted(PLACES)), name=devices, which=st.integers(0, 1))
    def notice_and_hint(self, timeline: str, name: str, which: int) -> None:
        self.world.notify(timeline)
        device = self.devices[name]
        device.resync(list(device.readers)[which], self.now)

    @rule(fresh=st.booleans())
    def leave_or_join_the_group(self, fresh: bool) -> None:
        if self.world.is_member:
            self.world.leave()
        else:
            self.back_in_the_group(fresh)

    def back_in_the_group(self, fresh: bool) -> None:
        """The edge hints; whether the client knows that he was away is left open."""
        self.world.join()
        if fresh:
            self.devices["c"].begin_again("g7", self.now)
        else:
            self.devices["c"].resync("g7", self.now)

    @rule(name=st.sampled_from(["a", "b"]), count=st.integers(1, 4), fate=fates, fresh=st.booleans())
    def chat_behind_the_back_of_a_former_member(self, name: str, count: int, fate: str, fresh: bool) -> None:
        """A hole in a stream for user 2, who is back then; he may or may not know that he was away."""
        if self.world.is_member:
            self.world.leave()
        self.chat(name, 1, count, fate, stored=False)
        self.back_in_the_group(fresh)
        self.chat(name, 1, count, fate, stored=False)

    @rule(
        name=devices,
        which=st.integers(0, 2),
        refusal=st.sampled_from(REFUSALS[-4:]),
        served=st.booleans(),
        boot=st.booleans(),
    )
    def a_resend_is_refused(self, name: str, which: int, refusal: str, served: bool, boot: bool) -> None:
        """Sent on one connection, refused on the next: was the first one taken?"""
        device = self.devices[name]
        device.connect(self.now)
        self.compose(name, which, 2)
        if served:
            self.serve(100, None)
        if boot:
            device.boot()
        device.connect(self.now)
        self.compose(name, which, 1)
        assert device.connection is not None
        while device.connection.requests:
            self.world.serve(device.connection, refusal)

    @rule(name=devices, victim=devices, which=st.integers(0, 2), stored=st.booleans())
    def a_disk_is_lost_when_live_deliveries_are_ahead_of_persist(
        self, name: str, victim: str, which: int, stored: bool
    ) -> None:
        self.chat(name, which, 1, "in order", stored)
        self.receive_syncs()
        self.chat(name, which, 1, "in order", stored=False)
        self.serve(100, None)
        self.devices[victim].lose_disk()
        self.devices[victim].connect(self.now)
        self.receive_syncs()

    @rule(name=devices, victim=devices, which=st.integers(0, 2))
    def a_disk_is_lost_before_a_resend(self, name: str, victim: str, which: int) -> None:
        """The resend is a duplicate in the log, and comes live before the new life has its heads."""
        self.chat(name, which, 1, "in order", stored=True)
        sender = self.devices[name]
        if sender.composed < 30:
            sender.compose(TARGETS[sender.user][which % len(TARGETS[sender.user])], self.now)
        self.serve(100, None)
        for p in PARTITIONS:
            for stop in ("appended", "acknowledged"):
                self.produce(p, 100, stop)
        self.route(100, "in order")
        for device, connection in self.links():
            while device is not sender and device.connection is connection and connection.frames:
                device.receive(self.now)
        self.serve(100, None)
        self.devices[victim].lose_disk()
        self.devices[victim].connect(self.now)
        sender.connect(self.now)
        assert sender.connection is not None
        while sender.connection.requests:
            self.world.serve(sender.connection)
        for p in PARTITIONS:
            self.produce(p, 100, "acknowledged")
        self.route(100, "in order")
        self.receive(100)

    # ------------------------------------------------------------------ at rest

    @rule()
    def settle(self) -> None:
        """Faults stop, what is away comes back, and everything moves until nothing does: first without the periodic sync."""
        while self.world.ghosts:
            self.world.haunt(0)
        for device, connection in self.links():
            if connection.lost:  # the edge knows and hints
                connection.lost = False
                for timeline in device.readers:
                    device.resync(timeline, self.now)
        self.run_until_quiet()
        for device in self.devices.values():
            device.check_everything_shown()
        self.backstop()
        self.run_until_quiet()
        for device in self.devices.values():
            device.check_everything_shown()
        self.check_history()

    def run_until_quiet(self) -> None:
        for _ in range(400):
            if self.move():
                continue
            due = [t for d in self.devices.values() if (t := d.next_tick()) is not None]
            if min(due) > self.now + 30 and not any(len(d.outbox) for d in self.devices.values()):
                return
            self.now = max(self.now, min(due))
            for device in self.devices.values():
                device.tick(self.now)
        raise AssertionError("no rest after 400 rounds")

    def backstop(self) -> None:
        """The periodic sync."""
        self.now += 400.0
        for device in self.devices.values():
            device.tick(self.now)

    def move(self) -> bool:
        world, moved = self.world, False
        for device in self.devices.values():
            if device.connection is None or not device.connection.alive:
                device.connect(self.now)
                moved = True
        for _, connection in self.links():
            while connection.requests:
                world.serve(connection)
                moved = True
        for p in PARTITIONS:
            while world.flight[p] or world.pending[p]:
                if not world.flight[p]:
                    world.flush(p, 100)
                flight = world.flight[p]
                if flight is not None and not flight[1]:
                    world.append(p)
                world.acknowledge(p)
                moved = True
            while world.routed[p] < len(world.log[p]):
                world.route(p)
                moved = True
            while world.persisted[p] < len(world.log[p]):
                world.persist(p)
                moved = True
        for device, connection in self.links():
            while connection.loose:
                world.deliver(connection, 0)
                moved = True
            while connection.syncs:
                world.read(connection, 0)
                moved = True
            while connection.frames and device.connection is connection:
                device.receive(self.now)
                moved = True
        return moved

    def check_history(self) -> None:
        """Every accepted message is stored once in each timeline; what was said to be nowhere is nowhere."""
        world = self.world
        stored = {
            t: [(r.message.stream, r.message.text) for r in rows if r.message.kind == "text"]
            for t, rows in world.rows.items()
        }
        for device in self.devices.values():
            for entry in device.accepted:
                for timeline in timelines(device.user, entry):
                    assert stored[timeline].count((entry.stream, entry.text)) == 1, f"{entry} in {timeline}"
            assert not device.saved, f"{device.name} still has {device.saved}"
        texts = {decode_message(value).text for log in world.log.values() for _, value in log}
        for device in self.devices.values():
            assert not device.certainly_not & texts
        for timeline, p in PLACES.items():
            assert world.persisted[p] == len(world.log[p])
            assert [r.pos for r in world.rows[timeline]] == sorted({r.pos for r in world.rows[timeline]})
            assert all(r.pos < position(0, len(world.log[p])) for r in world.rows[timeline])

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.settle()


def timelines(user: int, entry: Entry) -> set[str]:
    return {"g7"} if entry.conversation == "g7" else {entry.conversation, f"u{user}"}


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=3 * settings().max_examples)  # of the profile: this is the one that matters
