"""A client that does not read: closed with 2003 soon, for little memory; nobody else notices; it comes back and has all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE, Scene, play
from tests.integration.raw import Raw, World, new_stream

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

#: Of each message. With a copy of each for nobody else but its writer, so that the others' screens say little.
SIZE = 30_000
#: What lies between an edge and a program that does not read: its outbox (4 MB), and the kernel's buffers on the way, twice
#: through nginx (below 10 MB each on this system).
MOST_BYTES = 64 << 20
#: The outbox, and what a burst of such messages takes elsewhere.
MEMORY_MB = 48
CLOSED = re.compile(r'^chat_edge_connections_closed_total\{code="2003"\} (\d+)', re.MULTILINE)


async def closed_for_slowness(cluster: Cluster) -> int:
    found = 0
    for name in cluster.names("edge"):
        port = cluster.state.chosen().ports[f"{name} metrics"]
        with trio.fail_after(10 * PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                text = b"".join([data async for data in stream]).decode()
        assert "chat_edge_connections_closed_total" in text
        found += sum(map(int, CLOSED.findall(text)))
    return found


def memory_mb(cluster: Cluster) -> float:
    """Of all edges."""
    lines = [Path(f"/proc/{cluster.pid(name)}/status").read_text() for name in cluster.names("edge")]
    return sum(int(text.split("VmRSS:")[1].split()[0]) for text in lines) / 1024


@pytest.mark.parametrize("door", ["front", "here"])
async def test_a_client_that_does_not_read(harmed: Cluster, nursery: trio.Nursery, door: str) -> None:
    here, there = (harmed.address(name) for name in harmed.names("edge")[:2])
    world = World(nursery, {"here": here, "there": there, "front": harmed.front})
    took = grown = 0.0
    texts: list[str] = []

    async def cruel(scene: Scene) -> None:
        nonlocal took, grown
        writer, slow = await world.person("writer", "there"), await world.person("slow", door)
        beside = await world.device_of(slow, "there")  # the same user's, and it reads
        before, memory, stream = await closed_for_slowness(harmed), memory_mb(harmed), new_stream()
        scene.begin()
        began = trio.current_time()
        while await closed_for_slowness(harmed) == before:
            assert len(texts) * SIZE < MOST_BYTES, "it was given more and more"
            for _ in range(20):
                texts.append(f"{len(texts)} ".ljust(SIZE, "x"))
                await writer.say(texts[-1], stream=stream, seq=len(texts) - 1, to=slow.user)
                await beside.message(texts[-1])
            grown = max(grown, memory_mb(harmed) - memory)
        took = trio.current_time() - began
        await slow.goodbye(2003)  # as soon as it reads
        again = await world.again(slow, door)
        assert await in_order(again) == texts
        await scene.recovered()

    try:
        played = await play(harmed, f"a client that does not read, {door}", cruel, section="network")
    finally:
        await world.close()
    print(f"closed after {took:.1f} s and {len(texts) * SIZE / 1e6:.0f} MB; the edges grew by {grown:.0f} MB")
    assert took < 20 * PATIENCE
    assert grown < MEMORY_MB
    assert played.recovery.thrown_out == 0
    assert played.recovery.last_s is None or played.recovery.last_s < 5 * PATIENCE, played  # the machine is busy with it


async def in_order(raw: Raw) -> list[str]:
    messages, _ = await raw.synced(f"u{raw.user}", 0, limit=20)
    return [message["text"] for message in messages if message["kind"] == "text"]
