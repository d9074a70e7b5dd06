"""A schedule of blows, done to a cluster."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from chat.bridge import open_memory
from chat.errors import PartError
from chat.tools.control import ask
from chat.tools.running import Identity, group_of, kill
from tests.harness.cluster import Cluster
from tests.harness.hostile import HostileProxy
from tests.harness.scene import PATIENCE, Scene
from tests.harness.schedule import Blow

_START_S: Final = 10.0  # a successor is waited for so long
_RECOVERED_S: Final = 150.0


class Storm:
    """`proxies`: the network between the clients and the front."""

    def __init__(self, cluster: Cluster, proxies: Sequence[HostileProxy]) -> None:
        self._cluster = cluster
        self._proxies = proxies
        self._frozen: list[Identity] = []
        self._without = 0  # who has the supervisor stopped
        self._supervisor = trio.Lock()
        self.blows: Mapping[str, Callable[[Scene, Blow], Awaitable[None]]] = {
            "kill": self._kill,
            "kill whole": self._kill_whole,
            "kill at its start": self._kill_at_its_start,
            "freeze": self._freeze,
            "stop": self._stop,
            "restart": self._restart,
            "scale": self._scale,
            "Redis emptied": self._redis_emptied,
            "Redis loses keys": self._redis_loses_keys,
            "Redis restarted empty": self._redis_restarted_empty,
            "nginx reloaded": self._nginx_reloaded,
            "connections reset": self._connections_reset,
            "network stalls": self._network_stalls,
            "network breaks": self._network_breaks,
            "supervisor killed": self._supervisor_killed,
        }

    async def run(self, scene: Scene, blows: Sequence[Blow]) -> None:
        """All of them, each at its time whatever the others do; then what is still frozen goes on, and the cluster gets its
        usual size and recovers."""
        scene.begin()
        try:
            async with trio.open_nursery() as nursery:
                for blow in blows:
                    nursery.start_soon(self._at, scene, blow)
        finally:
            for identity in self._frozen:
                kill(identity, signal.SIGCONT)
        await self._ask({"do": "scale", "edges": 2, "routers": 2, "persists": 2})
        scene.has_returned()
        await scene.recovered(_RECOVERED_S)

    async def _at(self, scene: Scene, blow: Blow) -> None:
        await scene.passed(blow.at)
        await self.blows[blow.what](scene, blow)

    # ---- processes

    def _identity(self, name: str) -> Identity | None:
        try:
            return self._cluster.entry(name).identity
        except KeyError:  # scaled away
            return None

    async def _kill(self, scene: Scene, blow: Blow) -> None:
        for identity in [self._identity(name) for name in blow.parts]:
            if identity is not None:
                kill(identity, signal.SIGKILL)

    async def _kill_whole(self, scene: Scene, blow: Blow) -> None:
        for name in blow.parts:
            identity = self._identity(name)
            if identity is not None:
                for each in (identity, *group_of(identity)):
                    kill(each, signal.SIGKILL)

    async def _kill_at_its_start(self, scene: Scene, blow: Blow) -> None:
        (name,) = blow.parts
        before = self._identity(name)
        if before is None:
            return
        kill(before, signal.SIGKILL)
        with trio.move_on_after(_START_S):
            while (now := self._identity(name)) in (before, None):  # noqa: ASYNC110 - the supervisor does it
                await trio.sleep(0.01)
            assert now is not None
            await trio.sleep(blow.seconds)
            kill(now, signal.SIGKILL)

    async def _freeze(self, scene: Scene, blow: Blow) -> None:
        held = [identity for name in blow.parts if (identity := self._identity(name)) is not None]
        self._frozen += held
        for identity in held:
            kill(identity, signal.SIGSTOP)
        await trio.sleep(blow.seconds)
        for identity in held:
            kill(identity, signal.SIGCONT)

    async def _stop(self, scene: Scene, blow: Blow) -> None:
        for name in blow.parts:
            identity = self._identity(name)
            if identity is not None:
                kill(identity, signal.SIGTERM)

    async def _nginx_reloaded(self, scene: Scene, blow: Blow) -> None:
        entry = self._cluster.entry("nginx")
        if entry.identity is not None and entry.state == "running":  # one that starts would end
            kill(entry.identity, signal.SIGHUP)

    # ---- the supervisor

    async def _ask(self, request: dict[str, object]) -> None:
        """Asked again while there is none."""
        with trio.move_on_after(30 * PATIENCE):
            while await ask(self._cluster.state, request) is None:  # noqa: ASYNC110 - another process
                await trio.sleep(0.5)

    async def _restart(self, scene: Scene, blow: Blow) -> None:
        names = [name for name in blow.parts if self._identity(name) is not None]
        await self._ask({"do": "restart", "names": names})

    async def _scale(self, scene: Scene, blow: Blow) -> None:
        await self._ask({"do": "scale", blow.parts[0]: blow.numbers[0]})

    async def _supervisor_killed(self, scene: Scene, blow: Blow) -> None:
        async with self._supervisor:
            self._cluster.kill("supervisor")
            await trio.sleep(blow.seconds)
            await self._cluster.up_again()

    @contextmanager
    def _no_supervisor(self) -> Iterator[None]:
        self._cluster.hit("supervisor", signal.SIGSTOP)
        try:
            yield
        finally:
            self._cluster.hit("supervisor", signal.SIGCONT)

    # ---- Redis

    async def _redis(self, *commands: tuple[object, ...]) -> list[object]:
        """Nothing where Redis is away just now."""
        async with open_memory(self._cluster.config.redis) as memory:
            with trio.move_on_after(3.0):
                try:
                    return list(await memory.pipeline(list(commands)))  # type: ignore[arg-type]
                except PartError:
                    return []
        return []

    async def _redis_emptied(self, scene: Scene, blow: Blow) -> None:
        await self._redis(("FLUSHALL",))

    async def _redis_loses_keys(self, scene: Scene, blow: Blow) -> None:
        """Any of them, leases too."""
        found = await self._redis(("KEYS", "*"))
        keys = found[0] if found else None
        if isinstance(keys, list):
            share = scene.random.choice((0.1, 0.5, 0.9))
            gone = [key for key in sorted(keys) if scene.random.random() < share]
            if gone:
                await self._redis(("DEL", *gone))

    async def _redis_restarted_empty(self, scene: Scene, blow: Blow) -> None:
        async with self._supervisor:
            with self._no_supervisor():
                await self._kill(scene, blow._replace(parts=("redis",)))
                await trio.to_thread.run_sync(
                    lambda: shutil.rmtree(self._cluster.folder / "redis" / "appendonlydir", ignore_errors=True)
                )

    # ---- the network

    async def _connections_reset(self, scene: Scene, blow: Blow) -> None:
        for proxy in self._proxies:
            proxy.cut_all()

    async def _network_stalls(self, scene: Scene, blow: Blow) -> None:
        async with trio.open_nursery() as nursery:
            for proxy in self._proxies:
                nursery.start_soon(proxy.stall_all, blow.seconds)

    async def _network_breaks(self, scene: Scene, blow: Blow) -> None:
        """For the connections made from now on; it gets calm again."""
        for proxy in self._proxies:
            proxy.calm = False
            proxy.cut_all()
        await trio.sleep(blow.seconds)
        for proxy in self._proxies:
            proxy.calm = True
