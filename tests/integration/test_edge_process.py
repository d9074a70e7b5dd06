"""A whole edge on the real servers, and a real process of it: start, serve, drain."""

import signal
from collections.abc import Callable

import pytest
import trio
from msgspec.structs import replace

from chat.bridge import open_log_admin, open_memory
from chat.config import Config, EdgeConfig
from chat.edge.server import run_edge
from chat.records import Topics
from tests.harness.cluster import Cluster
from tests.integration.raw import PASSWORD, Raw, new_device, new_name, new_stream, open_raw, until

pytestmark = pytest.mark.servers

PORTS = ("127.0.0.1:11871", "127.0.0.1:11872")


@pytest.fixture
def edge_config(config: Config) -> Config:
    return replace(config, edge=EdgeConfig(listen=PORTS[0], listen_proxy=PORTS[1], drain_s=2.0))


async def person(address: str, head: bytes = b"") -> Raw:
    raw = await open_raw(address)
    await raw.send_bytes(head)
    await raw.greet()
    name = new_name()
    await raw.done("register", name=name, password=PASSWORD)
    await raw.log_in(name, device=new_device())
    return raw


async def test_an_edge_serves_and_leaves_nothing_behind(edge_config: Config, nursery: trio.Nursery) -> None:
    stop, ended = trio.Event(), trio.Event()

    async def edge(task_status: trio.TaskStatus[None]) -> None:
        await run_edge(edge_config, stop=stop, task_status=task_status)
        ended.set()

    with trio.fail_after(20):
        await nursery.start(edge)
    ann = await person(PORTS[0])
    bob = await person(PORTS[1], b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 11872\r\n")
    stream = new_stream()
    for seq in range(500):
        await ann.send("send", to=bob.user, stream=stream, seq=seq, text=f"line {seq}")
    await ann.take(lambda f: f["type"] == "accepted" and f["seq"] == 499)
    await ann.send("send", to=10**9, stream=stream, seq=0, text="who?")
    await ann.expect("error", code="not_found", to=10**9)
    topics = Topics(edge_config.kafka.namespace)
    async with open_log_admin(edge_config.kafka) as admin, open_memory(edge_config.redis) as redis:
        assert topics.edge(edge_config.edge.name) in await admin.topics()
        prefix = edge_config.redis.prefix
        assert await redis.pipeline([("HLEN", f"{prefix}loc:{bob.user}")]) == [1]
        stop.set()
        await ann.expect("moved")
        await ann.goodbye(2000)
        await bob.goodbye(2000)
        for raw in (ann, bob):
            await raw.stream.aclose()
        with trio.fail_after(10):
            await ended.wait()
        keys = [f"{prefix}loc:{ann.user}", f"{prefix}loc:{bob.user}", f"{prefix}edge:{edge_config.edge.name}"]
        assert await redis.pipeline([("EXISTS", *keys)]) == [0]
    with pytest.raises(OSError, match="connect"):
        await open_raw(PORTS[0])


async def test_sigterm_drains_a_process_under_load(own_cluster: Callable[..., Cluster]) -> None:
    cluster = own_cluster(**{"up.edges": 2, "edge.drain_s": 4.0})
    first, second = cluster.names("edge")[:2]
    ann, bob = await person(cluster.address(first)), await person(cluster.address(second))
    stream, sent = new_stream(), 0
    before = cluster.pid(first)
    cluster.signal(first, signal.SIGTERM)
    told = False
    while not told and sent < 100_000:
        await ann.send("send", to=bob.user, stream=stream, seq=sent, text=f"line {sent}")
        sent += 1
        await bob.send("heartbeat")
        await ann.alive()
        told = any(f["type"] == "moved" for f in ann.inbox)
    await ann.goodbye(2000)
    accepted = max((f["seq"] for f in ann.inbox if f["type"] == "accepted"), default=-1)
    assert accepted == sent - 1  # what was sent was finished

    async def all_there() -> bool:
        await bob.send("heartbeat")
        messages, _ = await bob.synced(f"u{bob.user}", 0)
        return [m["seq"] for m in messages] == list(range(sent))

    await until(all_there)
    await ann.stream.aclose()
    await cluster.back(first, before, 40)
    assert '"stopped"' in cluster.log(first)
    again = await open_raw(cluster.address(first))
    await again.greet()
    await again.resume(ann.logged_in["token"], ann.logged_in["device"])
    await again.alive()
    for raw in (bob, again):
        await raw.stream.aclose()
