"""Two clients on three devices over a hostile network, an edge, router and persist that crash: every accepted message is
shown once and in order on every device. The invariants are those of tests/model; the client, the window, the encodings
are the real ones.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from chat.client.outbox import Entry
from chat.positions import position
from chat.protocol import decode_message
from tests.property.device import Device
from tests.property.world import PARTITIONS, PLACES, USERS, Connection, World

devices = st.sampled_from(sorted(USERS))
partitions = st.sampled_from(PARTITIONS)
small = st.integers(1, 4)
TARGETS = {1: ("u2", "g7", "u1"), 2: ("u1", "g7")}


class Delivery(RuleBasedStateMachine):
    @initialize(too_old=st.booleans(), buffer=st.sampled_from([0, 2, 50]), waiting=st.sampled_from([1, 2, 50]))
    def begin(self, too_old: bool, buffer: int, waiting: int) -> None:
        self.world, self.now = World(), 0.0
        self.world.too_old = too_old
        self.devices = {n: Device(self.world, n, buffer=buffer, waiting=waiting) for n in USERS}

    def links(self) -> list[tuple[Device, Connection]]:
        """Devices on line, with their connections; one that the edge has closed finds out here."""
        for device in self.devices.values():
            if device.connection is not None and not device.connection.alive:
                device.drop()
        return [(d, d.connection) for d in self.devices.values() if d.connection is not None]

    # ------------------------------------------------------------------ clients

    @rule(name=devices, which=st.integers(0, 2), count=small)
    def compose(self, name: str, which: int, count: int) -> None:
        device = self.devices[name]
        targets = TARGETS[device.user]
        for _ in range(count):
            if device.composed < 12:
                device.compose(targets[which % len(targets)], self.now)

    @rule(name=devices)
    def connect(self, name: str) -> None:
        self.devices[name].connect(self.now)

    @rule(name=devices)
    def drop(self, name: str) -> None:
        self.devices[name].drop()

    @rule(name=devices)
    def restart_client(self, name: str) -> None:
        self.devices[name].boot()

    @rule(name=devices)
    def lose_disk(self, name: str) -> None:
        self.devices[name].lose_disk()

    @rule(seconds=st.sampled_from([0.01, 0.2, 1.0, 6.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for device, _ in self.links():
            device.tick(self.now)

    # ------------------------------------------------------------------ the network

    @precondition(lambda self: any(c.requests for _, c in self.links()))
    @rule(
        data=st.data(),
        count=small,
        refusal=st.sampled_from([None] * 8 + ["rate_limited", "unavailable", "bad_request", "blocked"]),
    )
    def serve(self, data: st.DataObject, count: int, refusal: str | None) -> None:
        connection = data.draw(st.sampled_from([c for _, c in self.links() if c.requests]))
        for _ in range(min(count, len(connection.requests))):
            self.world.serve(connection, refusal)
            refusal = None

    @precondition(lambda self: any(c.frames for _, c in self.links()))
    @rule(data=st.data(), count=small)
    def receive(self, data: st.DataObject, count: int) -> None:
        device, connection = data.draw(st.sampled_from([link for link in self.links() if link[1].frames]))
        for _ in range(count):
            if device.connection is connection and connection.frames:
                device.receive(self.now)

    @precondition(lambda self: any(c.loose for _, c in self.links()))
    @rule(data=st.data(), what=st.sampled_from(["all", "one", "one", "again", "lose"]))
    def deliver(self, data: st.DataObject, what: str) -> None:
        connection = data.draw(st.sampled_from([c for _, c in self.links() if c.loose]))
        if what == "all":
            while connection.loose:
                self.world.deliver(connection, 0)
            return
        index = data.draw(st.integers(0, len(connection.loose) - 1))
        if what == "lose":
            del connection.loose[index]
        else:
            self.world.deliver(connection, index, repeat=what == "again")

    @rule(name=devices, which=st.integers(0, 1))
    def hint(self, name: str, which: int) -> None:
        device = self.devices[name]
        device.resync(list(device.readers)[which], self.now)

    @precondition(lambda self: self.world.zombies)
    @rule(data=st.data())
    def serve_a_connection_whose_device_is_gone(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.world.zombies))
        self.world.serve(connection)
        if not connection.requests:
            self.world.zombies.remove(connection)

    # ------------------------------------------------------------------ the producer, the log

    @precondition(lambda self: any(self.world.pending[p] and not self.world.flight[p] for p in PARTITIONS))
    @rule(count=small)
    def flush(self, count: int) -> None:
        for p in PARTITIONS:
            if self.world.pending[p] and not self.world.flight[p]:
                self.world.flush(p, count)

    @precondition(lambda self: any(self.world.flight.values()))
    @rule(p=partitions, both=st.booleans())
    def append_or_acknowledge(self, p: int, both: bool) -> None:
        flight = self.world.flight[p]
        if flight is not None:
            if not flight[1]:
                self.world.append(p)
            if flight[1] or both:
                self.world.acknowledge(p)

    @rule(ghosts=st.booleans())
    def edge_restarts(self, ghosts: bool) -> None:
        self.world.fail(ghosts=ghosts)

    @precondition(lambda self: self.world.ghosts)
    @rule()
    def a_late_batch_comes_into_the_log(self) -> None:
        self.world.haunt(0)

    @rule(timeline=st.sampled_from(sorted(PLACES)))
    def notice(self, timeline: str) -> None:
        self.world.notify(timeline)

    @precondition(lambda self: any(self.world.routed[p] < len(self.world.log[p]) for p in PARTITIONS))
    @rule(p=partitions, count=small)
    def route(self, p: int, count: int) -> None:
        for _ in range(min(count, len(self.world.log[p]) - self.world.routed[p])):
            self.world.route(p)

    @rule(p=partitions, back=st.integers(0, 6))
    def router_restarts(self, p: int, back: int) -> None:
        self.world.rewind_router(p, max(0, self.world.routed[p] - back))

    @precondition(lambda self: any(self.world.persisted[p] < len(self.world.log[p]) for p in PARTITIONS))
    @rule(p=partitions, count=small)
    def persist(self, p: int, count: int) -> None:
        for _ in range(min(count, len(self.world.log[p]) - self.world.persisted[p])):
            self.world.persist(p)

    @precondition(lambda self: any(c.syncs for _, c in self.links()))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from([c for _, c in self.links() if c.syncs]))
        self.world.read(connection, data.draw(st.integers(0, len(connection.syncs) - 1)))

    @rule(fresh=st.booleans())
    def leave_or_join_the_group(self, fresh: bool) -> None:
        if self.world.is_member:
            self.world.leave()
        else:
            self.world.join()
            if fresh:
                self.devices["c"].begin_again("g7", self.now)

    # ------------------------------------------------------------------ at rest

    @rule()
    def settle(self) -> None:
        """Faults stop, what is away comes back, and everything moves until nothing does."""
        world = self.world
        while world.ghosts:
            world.haunt(0)
        for name in USERS:
            if self.devices[name] not in [d for d, _ in self.links()]:
                self.devices[name].connect(self.now)
        for _ in range(400):
            moved = self.move()
            if moved:
                continue
            due = [t for d in self.devices.values() if (t := d.next_tick()) is not None]
            if not due or (min(due) > self.now + 30 and not any(len(d.outbox) for d in self.devices.values())):
                if not self.backstop():
                    break
                continue
            self.now = max(self.now, min(due))
            for device in self.devices.values():
                device.tick(self.now)
        else:
            raise AssertionError("no rest after 400 rounds")
        for device in self.devices.values():
            device.check_everything_shown()
        self.check_history()

    def backstop(self) -> bool:
        """The periodic sync, once: a delivery may have been lost and nothing come behind it."""
        before = [(d.name, t, r.known) for d in self.devices.values() for t, r in d.readers.items()]
        self.now += 400.0
        for device in self.devices.values():
            device.tick(self.now)
        while self.move():
            pass
        return before != [(d.name, t, r.known) for d in self.devices.values() for t, r in d.readers.items()]

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
