"""The client library, `chat talk`, the self-test and the minimal client on a real cluster."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from chat import protocol
from chat.client import events as ev
from chat.client.sdk import Client
from chat.client.store import Store
from chat.tools.selftest import selftest
from tests.harness.cluster import Cluster
from tests.unit.client.test_minimal_client import minimal, until

pytestmark = pytest.mark.servers

PASSWORD = "correct horse"


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"


class Device:
    def __init__(self, address: str, name: str, store: Store | None = None) -> None:
        self.events: list[ev.Event] = []
        self.client = Client(
            [address], name, store or Store(":memory:"), password=PASSWORD, register=True, listener=self.events.append
        )

    @property
    def texts(self) -> list[str]:
        return [e.message.text for e in self.events if isinstance(e, ev.MessageShown) and e.message.kind == "text"]

    @property
    def kinds(self) -> list[str]:
        return [e.message.kind for e in self.events if isinstance(e, ev.MessageShown)]

    def marks(self, text: str) -> list[str]:
        return [e.state for e in self.events if isinstance(e, ev.EntryChanged) and e.entry.text == text]

    async def until(self, true: Callable[[], bool], seconds: float = 15) -> None:
        with trio.fail_after(seconds):
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


async def test_marks_and_devices(cluster: Cluster):
    here, there = (cluster.address(name) for name in cluster.names("edge")[:2])
    name = unique("bob")
    alice, bob, phone = Device(here, unique("alice")), Device(there, name), Device(cluster.front, name)
    async with running(alice, bob), running(phone):
        user = await alice.client.find_user(name)
        alice.client.send_text(f"u{user}", "hello 中文 👍")
        for device in (alice, bob, phone):
            await device.until(lambda d=device: d.texts == ["hello 中文 👍"])
        await alice.until(lambda: "delivered" in alice.marks("hello 中文 👍"))
        bob.client.mark_read(f"u{alice.client.user}")
        await alice.until(lambda: alice.marks("hello 中文 👍")[-1] == "read")
        conversation = phone.client.conversations.get(f"u{alice.client.user}")
        await phone.until(lambda: conversation.unread == 0)
        assert alice.marks("hello 中文 👍") == ["sending", "accepted", "delivered", "read"]


async def test_a_thousand_waiting_messages(cluster: Cluster, tmp_path: Path):
    alice, name = Device(cluster.front, unique("alice")), unique("bob")
    store = Store(tmp_path / "bob.sqlite")
    first = Device(cluster.front, name, store)
    async with running(alice):
        async with running(first):
            user = await alice.client.find_user(name)
        store.close()
        wanted = [f"{n}" for n in range(1_000)]
        for text in wanted:
            alice.client.send_text(f"u{user}", text)
        await alice.until(lambda: len(alice.client.sending) == 0, 30)
        again = Device(cluster.front, name, Store(tmp_path / "bob.sqlite"))
        async with running(again):
            await again.until(lambda: len(again.texts) >= len(wanted), 30)
            alice.client.send_text(f"u{user}", "live")
            await again.until(lambda: again.texts[-1] == "live")
            assert again.texts == [*wanted, "live"]


async def test_people_and_groups(cluster: Cluster):
    alice, bob = Device(cluster.front, unique("alice")), Device(cluster.front, unique("bob"))
    async with running(alice, bob):
        user = await alice.client.find_user(bob.client.name)
        await alice.client.do(protocol.FriendRequest(user=user, text="please"))
        await bob.until(lambda: "friend_request" in bob.kinds)
        assert await bob.client.user_name(alice.client.user) == alice.client.name
        await bob.client.do(protocol.FriendAccept(user=alice.client.user))
        await alice.until(lambda: "friend_accepted" in alice.kinds)
        assert [(f.name, f.state) for f in await alice.client.friends()] == [(bob.client.name, "friend")]
        assert await alice.client.watch([user]) == {user: True}
        group = await alice.client.create_group("tea", [user])
        await bob.until(lambda: group in bob.client.my_groups)
        alice.client.send_text(f"g{group}", "tea?")
        await bob.until(lambda: bob.texts == ["tea?"])
        await bob.client.do(protocol.GroupLeave(group=group))
        await bob.until(lambda: group not in bob.client.my_groups)
        alice.client.send_text(f"g{group}", "alone")
        await alice.until(lambda: "alone" in alice.texts)
        assert bob.texts == ["tea?"]
        await bob.client.leave()
        await alice.until(lambda: alice.client.online[user] is False)


async def test_the_self_test(cluster: Cluster):
    edges = [cluster.address(name) for name in cluster.names("edge")]
    report = await selftest(cluster.front, edges)
    assert report.ok, str(report)
    assert {edge for pair in report.pairs for edge in pair.edges} == set(cluster.names("edge"))


# ------------------------------------------------------------------ chat talk


class Talk:
    """`chat talk` in a pipe."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, *more: str) -> None:
        command = [sys.executable, "-m", "chat", "talk", name, "--server", cluster.front, "--state", str(folder), *more]
        environment = {**os.environ, "CHAT_PASSWORD": PASSWORD, "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment, bufsize=1
        )

        self.watchdog = threading.Timer(60, self.process.kill)
        self.watchdog.start()

    def type(self, *lines: str) -> None:
        for line in lines:
            print(line, file=self.process.stdin, flush=True)

    def see(self, part: str) -> list[str]:
        """Lines up to one with `part` in it."""
        seen: list[str] = []
        for line in self.process.stdout:
            seen.append(line.rstrip("\n"))
            if part in line:
                return seen
        raise AssertionError(f"no {part!r} in {seen}")

    def end(self) -> tuple[int, list[str]]:
        out, _ = self.process.communicate()
        self.watchdog.cancel()
        return self.process.returncode, out.splitlines()


def talk_through_a_pipe(cluster: Cluster, tmp_path: Path) -> None:
    alice, bob = unique("alice"), unique("bob")
    assert Talk(cluster, tmp_path / "b", bob, "--register").end() == (0, [])
    first = Talk(cluster, tmp_path / "a", alice, "--register", "--to", bob)
    first.type("hello 中文", "//slash", f"/add {bob} hi")
    code, lines = first.end()
    assert code == 0
    assert [line.split("] ", 1)[1] for line in lines if "✓" in line] == [f"→ {bob}: hello 中文  ✓", f"→ {bob}: /slash  ✓"]

    second = Talk(cluster, tmp_path / "b", bob)  # what came in while bob was away, once
    seen = second.see("asks to be your friend: hi")
    assert [line.split("] ", 1)[1] for line in seen[:2]] == [f"{alice}: hello 中文", f"{alice}: /slash"]
    second.type(f"/accept {alice}", f"/to {alice}", "good morning")
    second.see("good morning  ✓")
    ends = time.monotonic() + 10
    second.type("/list")  # it is in the list when it is stored and has come back, a moment after it is accepted
    while "good morning" not in second.see(alice)[-1]:
        assert time.monotonic() < ends, "what was said last is not what the list shows"
        second.type("/list")
    second.type("/nonsense")
    code, lines = second.end()
    assert code == 1, "a command that fails is told by the exit code"
    assert any("no command /nonsense" in line for line in lines)

    third = Talk(cluster, tmp_path / "a", alice)
    third.see(f"{bob}: good morning")
    code, lines = third.end()
    assert code == 0
    assert not any("hello" in line for line in lines), "nothing is written twice"
    assert Talk(cluster, tmp_path / "b", bob).end() == (0, [])


async def test_talk_in_a_pipe(cluster: Cluster, tmp_path: Path):
    with trio.fail_after(90):
        await trio.to_thread.run_sync(talk_through_a_pipe, cluster, tmp_path)


def test_talk_says_when_nobody_answers(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "chat",
        "talk",
        "alice",
        "--server",
        "127.0.0.1:1",
        "--state",
        str(tmp_path),
        "--wait",
        "1",
    ]
    environment = {**os.environ, "CHAT_PASSWORD": PASSWORD}
    done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, timeout=20, check=False)
    assert done.returncode == 3
    assert "not reached" in done.stderr


# ------------------------------------------------------------------ written from the protocol alone


@pytest.mark.parametrize("entrance", ["first edge", "second edge", "nginx"])
def test_the_minimal_client_is_away_for_a_thousand_messages(cluster: Cluster, tmp_path: Path, entrance: str):
    edges = [cluster.address(name) for name in cluster.names("edge")]
    address = {"first edge": edges[0], "second edge": edges[1], "nginx": cluster.front}[entrance]
    alice_name, bob_name = unique("alice"), unique("bob")
    shown: list[dict] = []

    def start(name: str, where: str, show: Callable[[dict], None]) -> tuple[minimal.Client, threading.Thread]:
        client = minimal.Client(where, name, PASSWORD, str(tmp_path / f"{name}.json"), show)
        thread = threading.Thread(target=client.run)
        thread.start()
        assert client.logged_in.wait(20)
        return client, thread

    def stop(client: minimal.Client, thread: threading.Thread) -> None:
        client.close()
        thread.join(20)
        assert not thread.is_alive()

    alice, alice_thread = start(alice_name, cluster.front, lambda message: None)
    bob, thread = start(bob_name, address, shown.append)
    alice.send("hello", to=bob.user)
    until(lambda: [m["text"] for m in shown] == ["hello"])
    stop(bob, thread)
    wanted = [f"{n}" for n in range(1_000)]
    for text in wanted:
        alice.send(text, to=bob.user)
    until(lambda: not alice.outbox)
    shown.clear()
    bob, thread = start(bob_name, address, shown.append)
    until(lambda: len(shown) >= 1_000)
    alice.send("live", to=bob.user)
    until(lambda: len(shown) >= 1_001)
    stop(bob, thread)
    stop(alice, alice_thread)
    assert [m["text"] for m in shown] == [*wanted, "live"]
