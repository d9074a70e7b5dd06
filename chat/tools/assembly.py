"""Which parts make the cluster, with which addresses and settings: pure but for the look at ports and programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from chat.config import Config
from chat.errors import SetupError
from chat.settings import settings_of, to_toml
from chat.tools import servers, sockets
from chat.tools.free_ports import Ports
from chat.tools.nginx import nginx
from chat.tools.parts import Part, Role, write_private
from chat.tools.state import Chosen, State

HOST: Final = "127.0.0.1"
SERVERS: Final = ("kafka", "redis", "mariadb", "nginx")
SHARED: Final = ("kafka", "redis", "mysql")
#: The sections that each service reads besides.
READ: Final[Mapping[str, tuple[str, ...]]] = {
    "edge": ("edge", "archive"),
    "router": ("router",),
    "persist": ("persist",),
    "archiver": ("archive",),
}
#: The ports that each is known by; edges, routers and persists count up from theirs, number 1 being the next.
KAFKA, CONTROLLER, REDIS, MARIADB = 19092, 19093, 16379, 13306
EDGE, EDGE_PROXY, EDGE_METRICS, ROUTER_METRICS, PERSIST_METRICS, ARCHIVER_METRICS = 7100, 7200, 7300, 7400, 7500, 7601
#: The order of starting, and backwards that of stopping.
ORDER: Final[tuple[Role, ...]] = ("kafka", "redis", "mariadb", "persist", "router", "edge", "archiver", "nginx")


def parts_wanted(config: Config) -> tuple[str, ...]:
    names = tuple(name.strip() for name in config.up.parts.split(",") if name.strip())
    if unknown := set(names) - set(SERVERS):
        raise SetupError(f"[up] parts has {', '.join(sorted(unknown))}; possible are {', '.join(SERVERS)}")
    return names


class Assembly:
    """Builds the parts of one cluster. `held`: names whose process is alive from before, so their ports are theirs."""

    def __init__(self, state: State, config: Config, held: frozenset[str], tell: Callable[[str], None]) -> None:
        self._state = state
        self._held = held
        self._looked: set[str] = set()
        self.chosen = state.chosen()
        self._ports = Ports(self.chosen.ports, config.up.first_port, tell)
        self._mine = parts_wanted(config)
        self.config = self._effective(config)
        self._settings = settings_of(self.config, "chat up")

    def _port(self, part: str, use: str, wanted: int) -> int:
        """The port of a part: chosen once, and looked at once per run until `release`, for then the part has it."""
        name = f"{part} {use}".strip()
        port = self._ports.take(name, wanted, ours=part in self._held or name in self._looked)
        self._looked.add(name)
        return port

    def release(self, part: str) -> None:
        """It does not run any more: its ports may be another's by the time it is wanted again."""
        self._looked = {name for name in self._looked if name.partition(" ")[0] != part}
        self._held -= {part}

    def _effective(self, config: Config) -> Config:
        """The given settings, with the addresses of the servers that run here."""
        replace = msgspec.structs.replace
        if "kafka" in self._mine:
            bootstrap = f"{HOST}:{self._port('kafka', '', KAFKA)}"
            config = replace(config, kafka=replace(config.kafka, bootstrap=bootstrap))
        if "redis" in self._mine:
            url = f"redis://{HOST}:{self._port('redis', '', REDIS)}/0"
            config = replace(config, redis=replace(config.redis, url=url))
        if "mariadb" in self._mine:
            port, user, password = self._port("mariadb", "", MARIADB), servers.MYSQL_USER, self.chosen.password
            mysql = replace(config.mysql, host=HOST, port=port, user=user, password=password)
            config = replace(config, mysql=mysql)
        if "nginx" in self._mine:
            host, _, port_text = config.nginx.listen.rpartition(":")
            front = self._ports.take("nginx", int(port_text), ours="nginx" in self._held, host=host)
            config = replace(config, nginx=replace(config.nginx, listen=f"{host}:{front}"))
        return replace(config, archive=replace(config.archive, url=self._archive(config.archive.url)))

    def _archive(self, url: str) -> str:
        """A folder beside the rest where none is given; a given one as it is seen from here, whoever reads it later."""
        if not url:
            return str(self._state.folder / "archive")
        return url if "://" in url else str(Path(url).absolute())

    def servers(self) -> list[Part]:
        """Kafka, Redis and MariaDB, as far as they are wanted. Raises SetupError for what is missing on the machine."""
        folder, config, found = self._state.folder, self.config, []
        if "kafka" in self._mine:
            controller = self._port("kafka", "controller", CONTROLLER)
            port = self._port("kafka", "", KAFKA)
            found.append(servers.kafka(folder / "kafka", port, controller, self.chosen.kafka_cluster, config.up))
        if "redis" in self._mine:
            found.append(servers.redis(folder / "redis", self._port("redis", "", REDIS)))
        if "mariadb" in self._mine:
            port, mysql = self._port("mariadb", "", MARIADB), config.mysql
            found.append(servers.mariadb(folder / "mariadb", port, mysql.password, mysql.database, config.up))
        return found

    def front(self) -> Part | None:
        return nginx(self._state.folder / "nginx", self.config.nginx) if "nginx" in self._mine else None

    def services(self, wanted: Mapping[str, int]) -> list[Part]:
        """`wanted`: how many edges, routers, persists. An archiver beside the persists."""
        return [
            *(self._persist(n) for n in range(1, wanted["persists"] + 1)),
            *(self._router(n) for n in range(1, wanted["routers"] + 1)),
            *(self._edge(n) for n in range(1, wanted["edges"] + 1)),
            *([self._archiver()] if wanted["persists"] else []),
        ]

    def _edge(self, number: int) -> Part:
        name = f"edge-{number}"
        listen = f"{HOST}:{self._port(name, '', EDGE + number)}"
        flags = {
            "listen": listen,
            "listen-proxy": self._behind_nginx(name, number),
            "metrics": f"{HOST}:{self._port(name, 'metrics', EDGE_METRICS + number)}",
        }
        return self._service(name, "edge", listen, flags, self.config.edge.drain_s + 5)

    def _behind_nginx(self, name: str, number: int) -> str:
        """A Unix socket where nginx runs here too: it costs both a fraction of the loopback's TCP."""
        folder = sockets.socket_folder(self._state.folder) if "nginx" in self._mine else None
        if folder is None:
            return f"{HOST}:{self._port(name, 'proxy', EDGE_PROXY + number)}"
        sockets.make(folder)
        return f"unix:{folder / name}.sock"

    def _router(self, number: int) -> Part:
        name = f"router-{number}"
        metrics = f"{HOST}:{self._port(name, 'metrics', ROUTER_METRICS + number)}"
        return self._service(name, "router", metrics, {"metrics": metrics, "instance": name}, 10)

    def _persist(self, number: int) -> Part:
        name = f"persist-{number}"
        metrics = f"{HOST}:{self._port(name, 'metrics', PERSIST_METRICS + number)}"
        return self._service(name, "persist", metrics, {"metrics": metrics, "instance": name}, 10)

    def _archiver(self) -> Part:
        name = "archiver"
        metrics = f"{HOST}:{self._port(name, 'metrics', ARCHIVER_METRICS)}"
        return self._service(name, "archiver", metrics, {"metrics": metrics}, 30)

    def _service(self, name: str, role: Role, address: str, flags: Mapping[str, str], stop_s: float) -> Part:
        given = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
        words = ("archive", "run") if role == "archiver" else (role,)
        command = (sys.executable, "-m", "chat", *words, "--config", str(self._state.settings), "--name", name, *given)
        return Part(
            name=name,
            role=role,
            address=address,
            command=command,
            folder=self._state.folder,
            settings=self._toml(*READ[role], *SHARED),
            stop_s=stop_s,
            nice=self.config.up.nice if role in ("persist", "archiver") else 0,
        )

    def _toml(self, *sections: str) -> str:
        """These sections, and what is in none."""
        chosen = tuple(s for s in self._settings if len(s.path) == 1 or s.path[0] in sections)
        return to_toml(chosen, masked=False, sources=False)

    def keep(self) -> Chosen:
        """Write down what was chosen, and the settings (not those of `chat up` itself)."""
        self._state.keep_chosen(self.chosen)
        write_private(self._state.settings, self._toml("edge", "router", "persist", "archive", "nginx", *SHARED))
        return self.chosen
