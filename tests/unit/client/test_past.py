"""A client with a local history, against the fake edge: on the disk before it is shown, and there without the edge."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from chat.client import events as ev
from chat.client.local import journal
from chat.client.local.history import LocalHistory
from chat.client.local.keys import Cost
from chat.client.sdk import Client
from chat.client.store import Store
from chat.client.talk import Talk
from tests.fakes.edge import FakeEdge
from tests.unit.client.test_sdk import Device, running
from tests.unit.client.test_terminal import Recorder, terminal, typed, until

CHEAP = Cost(1, 64, 1)


@contextmanager
def kept(folder: Path, name: str = "bob") -> Iterator[tuple[Store, LocalHistory]]:
    """The store and the local history of a device."""
    history = LocalHistory.open(folder / f"{name}.history", "correct horse", cost=CHEAP)
    store = Store(folder / f"{name}.sqlite")
    try:
        yield store, history
    finally:
        store.close()
        history.close()


def contents(folder: Path) -> bytes:
    """Of all files."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def local(client: Client, conversation: str) -> list[str]:
    """Oldest first."""
    return [m.text for m in (await client.local(conversation, 1_000)).messages][::-1]


async def found(client: Client, text: str, conversation: str | None = None) -> list[str]:
    return [hit.message.text async for hit in client.find(text, conversation)]


async def test_what_is_received_and_sent_is_there_without_the_edge(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        with kept(tmp_path) as (store, history):
            bob = Device(edge, "bob", store, history=history)
            async with running(alice, bob):
                to, back = f"u{bob.client.user}", f"u{alice.client.user}"
                alice.client.send_text(to, "hello 中文")
                await bob.until(lambda: bob.texts == ["hello 中文"])
                bob.client.send_text(back, "good morning")
                await bob.until(lambda: len(bob.texts) == 2)
                assert await local(bob.client, back) == ["hello 中文", "good morning"]
                await bob.client.leave()
                assert edge.cursors[store.device, to] == edge.timelines[to][-1].pos
    with kept(tmp_path) as (store, history):
        client = Client(["127.0.0.1:1"], "bob", store, history=history)
        assert await local(client, back) == ["hello 中文", "good morning"]
        assert [m.text for m in (await client.past(back, 1)).messages] == ["good morning"]
        assert await found(client, "MORNING") == ["good morning"]
        assert await found(client, "中文", back) == ["hello 中文"]
        assert await found(client, "hello", "u99") == []
        assert await client.local_conversations() == [back]
    everything = contents(tmp_path)
    assert "中文".encode() not in everything
    assert b"good morning" not in everything


async def test_nothing_is_acknowledged_or_shown_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    append = LocalHistory.append

    def slow(self, *args):
        assert go.wait(10)
        return append(self, *args)

    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        with kept(tmp_path) as (store, history):
            bob = Device(edge, "bob", store, history=history)
            async with running(alice, bob):
                monkeypatch.setattr(LocalHistory, "append", slow)
                to = f"u{bob.client.user}"
                before = edge.cursors[store.device, to]
                for n in range(20):
                    alice.client.send_text(to, f"{n}")
                await alice.until(lambda: not len(alice.client.sending))
                await until(lambda: bob.client._timelines._readers[to].known >= edge.timelines[to][-1].pos)
                await trio.testing.wait_all_tasks_blocked(0.15)  # longer than acknowledgements are gathered
                assert (bob.texts, edge.cursors[store.device, to], bob.client.caught_up) == ([], before, False)
                assert store.readers()[0][to].known == before
                go.set()
                await bob.until(lambda: bob.texts == [f"{n}" for n in range(20)])
                await until(lambda: edge.cursors[store.device, to] == edge.timelines[to][-1].pos)


async def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "RETRY_FIRST", 0.01)
    append, refusals = LocalHistory.append, [3]

    def full(self, items, *more):
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(28, "No space left on device")
        return append(self, items, *more)

    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        with kept(tmp_path) as (store, history):
            bob = Device(edge, "bob", store, history=history)
            async with running(alice, bob):
                monkeypatch.setattr(LocalHistory, "append", full)
                for n in range(3):
                    alice.client.send_text(f"u{bob.client.user}", f"{n}")
                await bob.until(lambda: bob.texts == ["0", "1", "2"])
                told = [e.text for e in bob.events if isinstance(e, ev.LocalHistorySaid)]
                assert len(told) == 3
                assert all("No space left" in text for text in told)
                assert await local(bob.client, f"u{alice.client.user}") == ["0", "1", "2"]


async def test_nothing_more_is_read_while_much_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "PENDING_MAX", 100)
    go, append = threading.Event(), LocalHistory.append

    def slow(self, *args):
        assert go.wait(10)
        return append(self, *args)

    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        with kept(tmp_path) as (store, history):
            bob = Device(edge, "bob", store, history=history)
            async with running(alice, bob):
                monkeypatch.setattr(LocalHistory, "append", slow)
                texts = [f"{n} " + "x" * 500 for n in range(700)]
                for text in texts:
                    alice.client.send_text(f"u{bob.client.user}", text)
                await alice.until(lambda: not len(alice.client.sending))
                await until(lambda: bob.client._journal.full)
                await trio.testing.wait_all_tasks_blocked(0.1)
                most = 100 + 2 * 65_536 // 500  # what one read from the socket brings
                assert bob.client._journal._messages < most
                assert bob.client.connected
                go.set()
                await bob.until(lambda: len(bob.texts) == len(texts))
                assert bob.texts == texts
                assert await local(bob.client, f"u{alice.client.user}") == texts


async def test_a_disk_that_refuses_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chat.client.past.RETRY_FIRST", 0.01)
    drop, refusals = LocalHistory.drop_floors, [2]

    def refuse(self):
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(30, "Read-only file system")
        return drop(self)

    monkeypatch.setattr(LocalHistory, "drop_floors", refuse)
    async with FakeEdge.serving() as edge:
        with kept(tmp_path) as (store, history):
            bob = Device(edge, "bob", store, history=history)
            async with running(bob):
                assert [e.text.rpartition(": ")[2] for e in bob.events if isinstance(e, ev.LocalHistorySaid)] == [
                    "[Errno 30] Read-only file system"
                ] * 2


async def test_cancelled_before_the_disk_has_it_the_next_run_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        async with running(alice):
            with kept(tmp_path) as (store, history):
                bob = Device(edge, "bob", store, history=history)
                with monkeypatch.context() as patch:
                    async with running(bob):

                        def broken(self, *args):
                            raise OSError(5, "Input/output error")

                        patch.setattr(LocalHistory, "append", broken)
                        to = f"u{bob.client.user}"
                        alice.client.send_text(to, "one")
                        await until(lambda: any(isinstance(e, ev.LocalHistorySaid) for e in bob.events))
                assert bob.texts == []
                async with running(bob):  # the same client, run again
                    await bob.until(lambda: bob.texts == ["one"])
                    assert await local(bob.client, f"u{alice.client.user}") == ["one"]


async def test_what_this_device_lacks_comes_from_the_server(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        alice, elsewhere = Device(edge, "alice"), Device(edge, "bob")
        async with running(alice, elsewhere):
            to, back = f"u{elsewhere.client.user}", f"u{alice.client.user}"
            for n in range(450):
                alice.client.send_text(to, f"{n}")
            await elsewhere.until(lambda: len(elsewhere.texts) == 450)
        with kept(tmp_path) as (store, history):
            bob = Device(edge, "bob", store, history=history, register=False)
            async with running(alice, bob):
                alice.client.send_text(to, "450")
                await bob.until(lambda: bob.texts == ["450"])
                assert await local(bob.client, back) == ["450"]
                page = await bob.client.past(back, 20)
                assert [m.text for m in page.messages] == [f"{n}" for n in range(450, 430, -1)]
                assert page.whole
                edge.on_history = None  # what is whole is not asked for again
                page = await bob.client.past(back, 100, page.next)
                assert [m.text for m in page.messages] == [f"{n}" for n in range(430, 330, -1)]
                del edge.on_history
                page = await bob.client.past(back, 1_000)
                assert [m.text for m in page.messages] == [f"{n}" for n in range(450, -1, -1)]
                assert page.whole
                assert len(await found(bob.client, "4")) == len([n for n in range(451) if "4" in f"{n}"])
                [listed] = (await bob.client.history(back, 1)).messages
                assert listed.text == "450"
            edge.on_history = None
            assert len(await local(bob.client, back)) == 451


async def test_a_state_folder_from_before_there_was_a_history(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        async with running(alice):
            store = Store(tmp_path / "bob.sqlite")
            bob = Device(edge, "bob", store)
            async with running(bob):
                to, back = f"u{bob.client.user}", f"u{alice.client.user}"
                for n in range(3):
                    alice.client.send_text(to, f"in the clear {n}")
                await bob.until(lambda: len(bob.texts) == 3)
            store.close()
            with kept(tmp_path) as (store, history):
                bob = Device(edge, "bob", store, history=history, password=None)
                assert await local(bob.client, back) == [f"in the clear {n}" for n in range(3)]
                assert [k.message.text for k in store.received_after(0)] == [f"in the clear {n}" for n in range(3)]
                async with running(bob):
                    alice.client.send_text(to, "sealed")
                    await bob.until(lambda: bob.texts == ["sealed"])
            everything = contents(tmp_path)
            assert b"in the clear" not in everything
            without = Store(tmp_path / "bob.sqlite")  # a run without the history
            assert (without.received_after(0), without.sealed_after(1)) == ([], 3)
            bob = Device(edge, "bob", without)
            async with running(bob):
                alice.client.send_text(to, "while it was closed")
                await bob.until(lambda: bob.texts == ["while it was closed"])
            without.close()
            with kept(tmp_path) as (store, history):
                bob = Device(edge, "bob", store, history=history)
                assert (await local(bob.client, back))[-2:] == ["sealed", "while it was closed"]


async def test_an_older_copy_of_the_history_is_filled_from_the_server(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        async with running(alice):
            for run in range(3):
                with kept(tmp_path) as (store, history):
                    bob = Device(edge, "bob", store, history=history)
                    async with running(bob):
                        to, back = f"u{bob.client.user}", f"u{alice.client.user}"
                        if run < 2:
                            alice.client.send_text(to, f"run {run}")
                            await bob.until(lambda r=run, b=bob: b.texts == [f"run {r}"])
                        page = await bob.client.past(back, 10)
                        assert [m.text for m in page.messages][::-1] == [f"run {n}" for n in range(min(run + 1, 2))]
                        assert page.whole
                if run == 0:
                    shutil.copytree(tmp_path / "bob.history", tmp_path / "copy")
                if run == 1:
                    shutil.rmtree(tmp_path / "bob.history")
                    (tmp_path / "copy").rename(tmp_path / "bob.history")


# ------------------------------------------------------------------ the screen


def lines(screen: Recorder) -> list[str]:
    return [line for line in screen.lines if not line.startswith("*")]


async def test_the_screen_shows_a_conversation_before_the_edge_answers(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        async with running(alice):
            with kept(tmp_path) as (store, history):
                bob = Device(edge, "bob", store, history=history)
                async with running(bob):
                    to = f"u{bob.client.user}"
                    bob.client.store.put_names({f"u{alice.client.user}": "alice"})
                    for n in range(3):
                        alice.client.send_text(to, f"{n}")
                    await bob.until(lambda: len(bob.texts) == 3)
                    store.put("written", str(max(e.number for e in bob.events if isinstance(e, ev.MessageShown))))
            edge.accept = False
            alice.client.send_text(to, "while the edge is away")
            with kept(tmp_path) as (store, history):
                screen = Recorder()
                client = Client([edge.address], "bob", store, password="correct horse", history=history)
                talk = Talk(client, screen)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.run)
                    nursery.start_soon(talk.follow)
                    await talk.begin("alice")
                    assert not client.connected
                    assert lines(screen) == ["alice: 0", "alice: 1", "alice: 2"]
                    assert screen.seen.endswith("alice> ")
                    await typed(talk, "/find 1")
                    assert screen.lines[-1] == "alice: 1"
                    await typed(talk, "/find nothing like it")
                    assert screen.lines[-1] == "nothing on this device"
                    await typed(talk, "/find everywhere: 2")
                    assert screen.lines[-1] == "alice: 2"
                    await typed(talk, "/to alice")
                    assert not talk.failures
                    screen.lines.clear()
                    edge.accept = True
                    await until(lambda: "alice: while the edge is away" in screen.lines)
                    await until(lambda: client.caught_up and client.all_taken())
                    await typed(talk, "/history 10")
                    said = lines(screen)
                    assert said == ["alice: while the edge is away", *said[1:]], "once, then the page that was asked for"
                    assert said[1:] == ["alice: 0", "alice: 1", "alice: 2", "alice: while the edge is away"]
                    nursery.cancel_scope.cancel()


async def test_the_screen_writes_once_what_the_server_lists_first(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        alice, elsewhere = Device(edge, "alice"), Device(edge, "bob")
        async with running(alice, elsewhere):
            to = f"u{elsewhere.client.user}"
            for n in range(3):
                alice.client.send_text(to, f"{n}")
            await elsewhere.until(lambda: len(elsewhere.texts) == 3)
        with kept(tmp_path) as (store, history):
            screen = Recorder()
            client = Client([edge.address], "bob", store, password="correct horse", history=history)
            talk = Talk(client, screen)
            async with running(alice), trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                nursery.start_soon(talk.follow)
                await talk.begin("alice")  # nothing is known here
                await client.wait_connected()
                await typed(talk, "/to alice")
                await until(lambda: lines(screen) == ["alice: 0", "alice: 1", "alice: 2"])
                alice.client.send_text(to, "3")
                await until(lambda: "alice: 3" in screen.lines)
                await typed(talk, "mine")
                await until(lambda: "→ alice: mine  ✓" in screen.lines)
                await until(lambda: client.caught_up and client.all_taken())
                assert lines(screen) == ["alice: 0", "alice: 1", "alice: 2", "alice: 3", "→ alice: mine  ✓"]
                nursery.cancel_scope.cancel()


def at_a_terminal(address: str, folder: Path, begin: list[str], see: list[str], then: str) -> None:
    command = ["-m", "chat", "talk", "alice", "--server", address, "--state", str(folder), *begin]
    with terminal(False, 0, *command) as screen:
        for part in see:
            screen.see(part)
        screen.type(then)


async def test_at_a_terminal_what_was_said_is_there_off_line(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        with trio.fail_after(60):
            first = (["--register", "--to", "alice"], ["alice> "], "a note\rand 中文\r/quit\r")
            await trio.to_thread.run_sync(at_a_terminal, edge.address, tmp_path, *first)
            again = (["--to", "alice"], ["a note", "and 中文"], "/quit\r")  # what was sent last may come back only now
            await trio.to_thread.run_sync(at_a_terminal, edge.address, tmp_path, *again)
            edge.accept = False
            off_line = (["--to", "alice"], ["a note", "and 中文", "not connected", "alice> "], "/quit\r")
            await trio.to_thread.run_sync(at_a_terminal, edge.address, tmp_path, *off_line)
            listed = ([], ["alice", "and 中文", "not connected"], "/quit\r")
            await trio.to_thread.run_sync(at_a_terminal, edge.address, tmp_path, *listed)
            edge.accept = True
            await trio.to_thread.run_sync(at_a_terminal, edge.address, tmp_path, [], ["connected to"], "/logout\r")
            assert not edge.tokens
