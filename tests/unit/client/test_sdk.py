"""The client against the fake edge: once and in order through every harm it does."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from chat import protocol
from chat.client import events as ev
from chat.client import sdk
from chat.client.sdk import Client, LoggedOut
from chat.client.store import Store
from tests.fakes.edge import FakeEdge


class Device:
    """A client with what it has shown."""

    def __init__(self, edge: FakeEdge, name: str, store: Store | None = None, **more) -> None:
        self.events: list[ev.Event] = []
        options = {"password": "correct horse", "register": True} | more
        self.client = Client([edge.address], name, store or Store(":memory:"), listener=self.events.append, **options)

    @property
    def texts(self) -> list[str]:
        return [e.message.text for e in self.events if isinstance(e, ev.MessageShown) and e.message.kind == "text"]

    def marks(self, text: str) -> list[str]:
        return [e.state for e in self.events if isinstance(e, ev.EntryChanged) and e.entry.text == text]

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            await self.client.wait_until(true)


@asynccontextmanager
async def running(*devices: Device) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for device in devices:
            nursery.start_soon(device.client.run)
        for device in devices:
            await device.until(lambda d=device: d.client.caught_up)
        yield
        nursery.cancel_scope.cancel()


async def test_a_message_with_all_its_marks():
    async with FakeEdge.serving() as edge:
        alice, bob = Device(edge, "alice"), Device(edge, "bob")
        async with running(alice, bob):
            to = await alice.client.find_user("bob")
            alice.client.send_text(f"u{to}", "hello")
            await bob.until(lambda: bob.texts == ["hello"])
            await alice.until(lambda: alice.marks("hello") == ["sending", "accepted", "delivered"])
            [conversation] = bob.client.conversations
            assert (conversation.unread, conversation.last.text) == (1, "hello")
            bob.client.mark_read(conversation.conversation)
            assert conversation.unread == 0
            await alice.until(lambda: alice.marks("hello")[-1] == "read")
            assert alice.texts == ["hello"]  # its copy, known as its own
            [own] = [e for e in alice.events if isinstance(e, ev.MessageShown)]
            assert own.entry.text == "hello"


@pytest.mark.parametrize("harm", ["cut", "goodbye", "lost", "unknown_prev", "swallow", "refuse"])
async def test_once_and_in_order(harm: str):
    async with FakeEdge.serving() as edge:
        alice, bob = Device(edge, "alice"), Device(edge, "bob")
        async with running(alice, bob):
            to = await alice.client.find_user("bob")
            sent = [f"line {n}" for n in range(100)]
            for n, text in enumerate(sent):
                alice.client.send_text(f"u{to}", text)
                if n % 30 == 10:
                    if harm == "cut":
                        edge.cut()
                    elif harm == "goodbye":
                        edge.goodbye(2001)
                    elif harm == "lost":
                        edge.lose_deliveries = not edge.lose_deliveries
                        edge.resync()
                    elif harm == "unknown_prev":
                        edge.unknown_prev = not edge.unknown_prev
                    elif harm == "swallow":
                        edge.swallow = 5
                    else:
                        edge.refuse = ["rate_limited", "unavailable"]
                await trio.lowlevel.checkpoint()
            edge.lose_deliveries = False
            await alice.until(lambda: len(alice.client.sending) == 0)
            edge.resync()
            await bob.until(lambda: len(bob.texts) >= len(sent))
            await alice.until(lambda: len(alice.texts) >= len(sent))
            assert bob.texts == sent
            assert alice.texts == sent


async def test_a_server_that_takes_connections_and_says_nothing(monkeypatch: pytest.MonkeyPatch):
    """A frozen edge: the next one is tried, and the silent one gets longer each time."""
    monkeypatch.setattr(sdk, "WELCOME_WITHIN", (0.1, 0.2))
    monkeypatch.setattr(sdk, "STABLE", 0.05)  # waiting for a welcome is no life
    monkeypatch.setattr(sdk, "BACKOFF_FIRST", 0.01)
    silent = socket.create_server(("127.0.0.1", 0), backlog=8)
    with silent:
        address = "127.0.0.1:{1}".format(*silent.getsockname())
        async with FakeEdge.serving() as edge:
            alice = Device(edge, "alice")
            alice.client._servers.insert(0, address)
            async with running(alice):
                first, *_ = [e for e in alice.events if isinstance(e, ev.Disconnected)]
                assert f"no welcome from {address}" in str(first.ended)


async def test_refused_for_good():
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        async with running(alice):
            alice.client.send_text("u999", "nobody")
            await alice.until(lambda: alice.marks("nobody") == ["sending", "failed"])
            assert len(alice.client.sending) == 0


async def test_what_was_missed_is_shown_once_after_a_restart(tmp_path):
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        async with running(alice):
            bob = Device(edge, "bob", Store(tmp_path / "bob.sqlite"))
            async with running(bob):
                to = await alice.client.find_user("bob")
                alice.client.send_text(f"u{to}", "one")
                await bob.until(lambda: bob.texts == ["one"])
            bob.client.store.close()
            for n in range(1_200):
                alice.client.send_text(f"u{to}", f"waiting {n}")
            await alice.until(lambda: len(alice.client.sending) == 0)
            again = Device(edge, "bob", Store(tmp_path / "bob.sqlite"), password=None, register=False)
            async with running(again):
                await again.until(lambda: len(again.texts) >= 1_200)
                assert again.texts == [f"waiting {n}" for n in range(1_200)]
            assert edge.logins == ["login", "login", "resume"]


async def test_the_outbox_survives(tmp_path):
    async with FakeEdge.serving() as edge:
        bob = Device(edge, "bob")
        async with running(bob):
            alice = Device(edge, "alice", Store(tmp_path / "alice.sqlite"))
            async with running(alice):
                to = await alice.client.find_user("bob")
                edge.swallow = 1_000
                for n in range(5):
                    alice.client.send_text(f"u{to}", f"{n}")
            assert len(alice.client.sending) == 5
            alice.client.store.close()
            edge.swallow = 0
            again = Device(edge, "alice", Store(tmp_path / "alice.sqlite"))
            async with running(again):
                again.client.send_text(f"u{to}", "5")
                await again.until(lambda: len(again.client.sending) == 0)
                await bob.until(lambda: len(bob.texts) >= 6)
                assert sorted(bob.texts) == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("answered", [True, False])
async def test_a_log_out_waits_for_what_is_not_accepted(tmp_path, answered: bool):
    async with FakeEdge.serving() as edge:
        bob = Device(edge, "bob")
        async with running(bob):
            alice = Device(edge, "alice", Store(tmp_path / "alice.sqlite"))
            async with running(alice):
                to = f"u{await alice.client.find_user('bob')}"
                edge.swallow = 0 if answered else 1_000
                for n in range(20):
                    alice.client.send_text(to, f"{n}")
                assert await alice.client.log_out(wait=5 if answered else 0.05) is answered
                with pytest.raises(LoggedOut, match="1002"), trio.fail_after(3):
                    await alice.client.wait_until(lambda: False)
            assert alice.client.store.get("token") is None
            alice.client.store.close()
            edge.swallow = 0
            again = Device(edge, "alice", Store(tmp_path / "alice.sqlite"), register=False)
            async with running(again):
                await again.until(lambda: len(again.client.sending) == 0)
                await bob.until(lambda: len(bob.texts) == 20)
                assert bob.texts == [f"{n}" for n in range(20)]
                assert edge.logins == ["login", "login", "login"]


async def test_groups_are_learned_from_the_own_timeline():
    async with FakeEdge.serving() as edge:
        alice, bob, carol = (Device(edge, name) for name in ("alice", "bob", "carol"))
        async with running(alice, bob, carol):
            group = await alice.client.create_group("tea", [await alice.client.find_user("bob")], open=True)
            await bob.until(lambda: any(isinstance(e, ev.GroupsChanged) for e in bob.events))
            alice.client.send_text(f"g{group}", "hello all")
            await bob.until(lambda: bob.texts == ["hello all"])
            await carol.client.do(protocol.GroupJoin(group=group))
            alice.client.send_text(f"g{group}", "hello carol")
            await carol.until(lambda: "hello carol" in carol.texts)
            await carol.client.do(protocol.GroupLeave(group=group))
            alice.client.send_text(f"g{group}", "without carol")
            await bob.until(lambda: len(bob.texts) == 3)
            await carol.client.do(protocol.GroupJoin(group=group))
            alice.client.send_text(f"g{group}", "carol again")
            await carol.until(lambda: "carol again" in carol.texts)
            assert len(carol.texts) == len(set(carol.texts))
            assert [m.name for m in await bob.client.members(group)] == ["alice", "bob", "carol"]


async def test_what_was_said_before_leaving_is_still_read(tmp_path):
    async with FakeEdge.serving() as edge:
        alice, carol = Device(edge, "alice"), Device(edge, "carol", Store(tmp_path / "carol.sqlite"))
        async with running(alice):
            group = await alice.client.create_group("tea", open=True)
            async with running(carol):
                await carol.client.do(protocol.GroupJoin(group=group))
                await carol.until(lambda: group in carol.client.my_groups and carol.client.caught_up)
            carol.client.store.close()
            for n in range(3):
                alice.client.send_text(f"g{group}", f"{n}")
            await alice.until(lambda: len(alice.client.sending) == 0)
            again = Device(edge, "carol", Store(tmp_path / "carol.sqlite"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(again.client.run)
                await again.client.wait_connected()
                await again.client.do(protocol.GroupLeave(group=group))
                await again.until(lambda: group not in again.client.my_groups)
                nursery.cancel_scope.cancel()
            assert again.texts == ["0", "1", "2"]


async def test_a_log_in_that_does_not_know_of_a_join_takes_no_group_away():
    async with FakeEdge.serving() as edge:
        alice, bob = Device(edge, "alice"), Device(edge, "bob")
        async with running(alice, bob):
            group = await alice.client.create_group("tea", [await alice.client.find_user("bob")])
            await bob.until(lambda: group in bob.client.my_groups and bob.client.caught_up)
            edge.stale = True
            edge.cut()
            await bob.until(lambda: sum(isinstance(e, ev.Connected) for e in bob.events) == 2)
            await alice.until(lambda: sum(isinstance(e, ev.Connected) for e in alice.events) == 2)
            alice.client.send_text(f"g{group}", "still here")
            await bob.until(lambda: bob.texts == ["still here"])


async def test_a_message_that_this_edge_takes_for_too_long_fails_alone():
    async with FakeEdge.serving() as edge:
        alice, bob = Device(edge, "alice"), Device(edge, "bob")
        async with running(alice, bob):
            to = f"u{await alice.client.find_user('bob')}"
            edge.max_frame = 1_000
            edge.cut()
            await alice.until(lambda: not alice.client.connected)
            for text in ("before", "x" * 2_000, "behind"):  # off line: taken for good by the rules of the edge before
                alice.client.send_text(to, text)
            await alice.until(lambda: sum(isinstance(e, ev.Connected) for e in alice.events) == 2)
            for text in ("y" * 2_000, "last"):
                alice.client.send_text(to, text)
            await bob.until(lambda: bob.texts == ["before", "behind", "last"])
            await alice.until(lambda: not len(alice.client.sending))
            assert alice.marks("x" * 2_000)[-1] == alice.marks("y" * 2_000)[-1] == "failed"


async def test_replaced_stays_away():
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        async with running(alice):
            twin = Device(edge, "alice")
            twin.client.store.put("device", alice.client.store.device)
            async with running(twin):
                with pytest.raises(LoggedOut, match="1001"), trio.fail_after(3):
                    await alice.client.wait_until(lambda: False)


async def test_a_wrong_password_is_final():
    async with FakeEdge.serving() as edge:
        edge.users["alice"] = (1, "another password")
        alice = Device(edge, "alice", register=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.client.run)
            with pytest.raises(LoggedOut, match="wrong name or password"), trio.fail_after(3):
                await alice.client.wait_connected()


async def test_presence_is_followed():
    async with FakeEdge.serving() as edge:
        alice, bob = Device(edge, "alice"), Device(edge, "bob")
        async with running(alice, bob):
            user = bob.client.user
            assert await alice.client.watch([user]) == {user: True}
            await bob.client.leave()
            await alice.until(lambda: alice.client.online[user] is False)
