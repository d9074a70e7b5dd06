"""examples/minimal_client.py against the fake edge: the protocol's text suffices."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.fakes.edge import FakeEdge

FILE = Path(__file__).parents[3] / "examples" / "minimal_client.py"
spec = importlib.util.spec_from_file_location("minimal_client", FILE)
minimal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(minimal)


class Shown(list):
    def texts(self) -> list[str]:
        return [m["text"] for m in self if m["kind"] == "text"]


@contextmanager
def running(address: str, name: str, folder: Path):
    shown = Shown()
    client = minimal.Client(address, name, "correct horse", str(folder / f"{name}.json"), shown.append)
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        assert client.logged_in.wait(10)
        yield client, shown
    finally:
        client.close()
        thread.join(10)
        assert not thread.is_alive()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "not within 10 s"
        time.sleep(0.01)


def talk(edge: FakeEdge, folder: Path, harm: str) -> None:
    with running(edge.address, "alice", folder) as (alice, seen_by_alice):
        with running(edge.address, "bob", folder) as (bob, seen):
            user = bob.user
            alice.send("hello", to=user)
            until(lambda: seen.texts() == ["hello"])
        for n in range(1_000):
            alice.send(f"waiting {n}", to=user)
        until(lambda: not alice.outbox)
        if harm == "unknown_prev":
            edge.unknown_prev = True
        with running(edge.address, "bob", folder) as (bob, seen):
            until(lambda: len(seen.texts()) >= 1_000)
            for n in range(50):
                if harm == "cut" and n in {10, 30}:
                    trio.from_thread.run_sync(edge.cut)
                with suppress(OSError):  # it is in the outbox
                    alice.send(f"live {n}", to=user)
            until(lambda: len(seen.texts()) >= 1_050)
            assert seen.texts() == [f"waiting {n}" for n in range(1_000)] + [f"live {n}" for n in range(50)]
        until(lambda: len(seen_by_alice.texts()) == 1_051)


@pytest.mark.parametrize("harm", ["none", "cut", "unknown_prev"])
async def test_logs_in_chats_and_catches_up(tmp_path: Path, harm: str):
    with trio.fail_after(60):
        async with FakeEdge.serving() as edge:
            await trio.to_thread.run_sync(talk, edge, tmp_path, harm)
