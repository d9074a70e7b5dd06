"""The real nginx with the project's templates, before edges that only tell who they are."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from chat.bridge import open_memory
from chat.config import NginxConfig, RedisConfig
from chat.tools import programs
from chat.tools.free_ports import Ports
from chat.tools.nginx import main_conf, nginx, read_leases, stream_conf, watch, write_stream
from chat.tools.parts import write_files, write_private
from chat.tools.readiness import until
from chat.tools.running import Running
from chat.tools.upstream import Upstream
from tests.harness.cluster import PORTS

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("balance", ["least_conn", "round_robin", "hash", "consistent_hash"])
@pytest.mark.parametrize("edges", [0, 2])
def test_nginx_takes_what_is_written(tmp_path: Path, balance: str, edges: int) -> None:
    port = Ports({}, random.choice(PORTS), lambda note: None).take("front", 0)
    config = NginxConfig(balance=balance, listen=f"127.0.0.1:{port}")  # type: ignore[arg-type]
    upstreams = frozenset(Upstream(f"edge-{n}", f"127.0.0.1:720{n}", n) for n in range(1, edges + 1))
    write_private(tmp_path / "nginx.conf", main_conf(tmp_path, config))
    write_private(tmp_path / "stream.conf", stream_conf(config, upstreams))
    program = programs.find(programs.NGINX).path
    command = [program, "-t", "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "nginx.conf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Edges:
    """Each answers a connection with its name and the PROXY line that it got, then echoes."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._stops: dict[str, trio.CancelScope] = {}
        self.held: Counter[str] = Counter()

    async def start(self, name: str, nursery: trio.Nursery) -> Upstream:
        port = self._ports.take(name, 0)
        await nursery.start(self._serve, name, port)
        return Upstream(name, f"127.0.0.1:{port}", 1)

    def stop(self, name: str) -> None:
        self._stops[name].cancel()

    async def _serve(self, name: str, port: int, *, task_status: trio.TaskStatus[None]) -> None:
        async def client(stream: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError):  # nginx resets what its client has left
                async with stream:
                    line = b""
                    while not line.endswith(b"\r\n") and (byte := await stream.receive_some(1)):
                        line += byte
                    self.held[name] += 1
                    await stream.send_all(name.encode() + b" " + line)
                    while data := await stream.receive_some():
                        await stream.send_all(data)

        with trio.CancelScope() as self._stops[name]:
            await trio.serve_tcp(client, port, host="127.0.0.1", task_status=task_status)


class Front:
    def __init__(self, config: NginxConfig, folder: Path, edges: Edges, nursery: trio.Nursery) -> None:
        self.config, self.folder, self.edges, self.nursery = config, folder, edges, nursery
        self.running: Running | None = None

    async def connect(self) -> tuple[trio.SocketStream, str]:
        """A client's connection, and the edge that it came to."""
        host, _, port = self.config.listen.rpartition(":")
        with trio.fail_after(10):
            stream = await trio.open_tcp_stream(host, int(port))
            hello = b""
            while not hello.endswith(b"\n"):
                got = await stream.receive_some()
                assert got, "nginx closed the connection"
                hello += got
        name, word, proto, address, *_ = hello.decode().split()
        assert (word, proto, address) == ("PROXY", "TCP4", "127.0.0.1")
        return stream, name

    async def edge(self) -> str:
        stream, name = await self.connect()
        await stream.aclose()
        return name

    def reload(self) -> None:
        assert self.running is not None
        self.running.signal(signal.SIGHUP)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with run_front(tmp_path, {}) as found:
        yield found


@asynccontextmanager
async def run_front(folder: Path, settings: dict[str, object]) -> AsyncIterator[Front]:
    ports = Ports({}, random.choice(PORTS), lambda note: None)
    config = replace(NginxConfig(clients=200), listen=f"127.0.0.1:{ports.take('front', 0)}", **settings)
    part = nginx(folder, config)
    async with trio.open_nursery() as nursery:
        found = Front(config, folder, Edges(ports), nursery)
        upstreams = frozenset([await found.edges.start(f"edge-{n}", nursery) for n in (1, 2)])
        write_files(part)
        write_stream(folder, config, upstreams)
        found.running = Running.start(part, folder / "nginx.log", dict(os.environ), "")
        try:
            assert part.check is not None
            with trio.fail_after(20):
                await until(part.check)
            yield found
        finally:
            found.running.signal(signal.SIGTERM)
            with trio.fail_after(10, shield=True):
                await found.running.exited()
        nursery.cancel_scope.cancel()


async def test_least_connections_spread_over_the_edges(front: Front) -> None:
    streams = [await front.connect() for _ in range(40)]
    counts = Counter(name for _, name in streams)
    assert max(counts.values()) - min(counts.values()) <= 2, counts
    for stream, _ in streams:
        await stream.aclose()


async def test_one_address_keeps_its_edge_by_hash(tmp_path: Path) -> None:
    async with run_front(tmp_path, {"balance": "consistent_hash"}) as front:
        assert len({await front.edge() for _ in range(10)}) == 1


async def test_an_edge_that_is_dead_is_passed_over_at_once(front: Front) -> None:
    front.edges.stop("edge-1")
    began = trio.current_time()
    assert {await front.edge() for _ in range(20)} == {"edge-2"}
    assert trio.current_time() - began < 3


async def test_a_reload_brings_the_new_edge_and_cuts_nobody(front: Front) -> None:
    stream, _ = await front.connect()
    third = await front.edges.start("edge-3", front.nursery)
    write_stream(front.folder, front.config, frozenset([third]))
    front.reload()
    with trio.fail_after(20):
        while await front.edge() != "edge-3":  # noqa: ASYNC110 - nginx reads it in another process
            await trio.sleep(0.05)
    await stream.send_all(b"still here")
    with trio.fail_after(5):
        assert await stream.receive_some() == b"still here"
    await stream.aclose()


async def test_the_watch_follows_the_leases(front: Front, redis_config: RedisConfig, bridge: None) -> None:
    config = replace(front.config, lost_ms=500, settle_ms=50)
    prefix, port = redis_config.prefix, (await front.edges.start("edge-3", front.nursery)).address
    reloads: list[str] = []

    def reload() -> None:
        reloads.append((front.folder / "stream.conf").read_text())
        front.reload()

    async with open_memory(redis_config) as memory, trio.open_nursery() as nursery:
        lease = f'{{"incarnation": 1, "address": "{port}", "weight": 2}}'
        await memory.pipeline(
            [
                ("SADD", f"{prefix}edges", "edge-3", "edge-gone", "edge-odd"),
                ("SET", f"{prefix}edge:edge-3", lease, "PX", 60_000),
                ("SET", f"{prefix}edge:edge-odd", '{"incarnation": 2, "address": "no address"}', "PX", 60_000),
            ]
        )
        nursery.start_soon(watch, config, front.folder, partial(read_leases, memory, prefix), reload)
        with trio.fail_after(20):
            while not reloads or await front.edge() != "edge-3":  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert f"server {port} weight=2 " in reloads[-1]
        assert "edge-odd" not in reloads[-1]
        keys = ("edges", "edge:edge-3", "edge:edge-odd")
        await memory.pipeline([("DEL", *(prefix + key for key in keys))])
        nursery.cancel_scope.cancel()
