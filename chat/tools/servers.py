"""Kafka, Redis and MariaDB as parts: their commands, files and readiness. Everything lies in the given folder, listens on
the given ports of the loopback, and has nothing to do with the machine's own services.

As root the servers run as root: the folder is the caller's, and another user might not get to it.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Final

from chat.config import UpConfig
from chat.tools import programs
from chat.tools.parts import Once, Part
from chat.tools.project import ARCHIVE, fill, project_file
from chat.tools.readiness import kafka_ready, mysql_ready, redis_ready

HOST: Final = "127.0.0.1"
MYSQL_USER: Final = "chat"
CONTAINER: Final = Path("/sys/fs/cgroup/memory.max")


def shared_classes() -> tuple[str, ...]:
    """Flags for the archive of chat/tools/classes.py, where it is; a Java that it does not fit starts without it."""
    return (f"-XX:SharedArchiveFile={ARCHIVE}", "-Xshare:auto", "-Xlog:cds=off") if ARCHIVE.is_file() else ()


def kafka(folder: Path, port: int, controller: int, cluster: str, config: UpConfig) -> Part:
    """One KRaft node, formatted before its first start. `cluster`: its id, 22 characters."""
    java = programs.find_java().path
    classes = f"{programs.find_jars()}/*"
    data, settings = folder / "data", folder / "server.properties"
    log4j = f"-Dlog4j2.configurationFile={project_file('kafka/log4j2.properties')}"
    filled = fill(
        "kafka/server.properties", {"listen": f"{HOST}:{port}", "controller": f"{HOST}:{controller}", "data": data}
    )
    quick = (java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", log4j, "-cp", classes)
    return Part(
        name="kafka",
        role="kafka",
        address=f"{HOST}:{port}",
        command=(
            java,
            f"-Xmx{config.kafka_heap_mb}m",
            f"-Xms{min(256, config.kafka_heap_mb)}m",
            "-XX:+UseSerialGC",  # on two cores, a small heap: pauses of a few ms, and no threads that compete
            "-XX:+ExitOnOutOfMemoryError",  # a broker that limps along is worse than one that is started again
            "-Djava.awt.headless=true",
            *shared_classes(),
            log4j,
            "-cp",
            classes,
            "kafka.Kafka",
            str(settings),
        ),
        folder=folder,
        files={settings: filled},
        once=Once(
            (*quick, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)),
            done=folder / "formatted",
            clear=data,
        ),
        check=partial(kafka_ready, f"{HOST}:{port}"),
        stop_s=20.0,
    )


REDIS_CONF: Final = """\
bind {host}
port {port}
dir "{folder}"
daemonize no
# Nothing is evicted in silence, and what was written survives a kill -9 but for the last second.
maxmemory-policy noeviction
appendonly yes
appendfsync everysec
save ""
tcp-backlog 511
tcp-keepalive 60
"""


def redis(folder: Path, port: int) -> Part:
    settings = folder / "redis.conf"
    return Part(
        name="redis",
        role="redis",
        address=f"{HOST}:{port}",
        command=(programs.find(programs.REDIS).path, str(settings)),
        folder=folder,
        files={settings: REDIS_CONF.format(host=HOST, port=port, folder=folder)},
        check=partial(redis_ready, f"{HOST}:{port}"),
    )


MARIADB_CONF: Final = """\
[mysqld]
{user}datadir={data}
# Relative to the data: the path of a socket may have no more than 107 characters.
socket=mysqld.sock
pid-file=mysqld.pid
# Not a folder that other servers use too: each removes at its start what it takes for its own leftovers.
tmpdir={temporary}
bind-address={host}
port={port}
init-file={init}
skip-name-resolve
skip-log-bin
local-infile=0
performance-schema=0
character-set-server=utf8mb4
collation-server=utf8mb4_general_ci
max-connections=500
max-allowed-packet=64M
back-log=512
# Committed is on the disk: persist's offset and its rows must not be lost after the log was trimmed.
innodb-flush-log-at-trx-commit=1
innodb-buffer-pool-size={pool}M
innodb-log-file-size=128M
innodb-lock-wait-timeout=5
"""

#: Run by the server itself at each start, before it listens, so no client and no root password are needed.
MARIADB_INIT: Final = """\
CREATE USER IF NOT EXISTS '{name}'@'{host}';
ALTER USER '{name}'@'{host}' IDENTIFIED BY '{password}';
GRANT ALL PRIVILEGES ON `chat%`.* TO '{name}'@'{host}';
GRANT PROCESS, RELOAD ON *.* TO '{name}'@'{host}';
CREATE DATABASE IF NOT EXISTS `{database}` CHARACTER SET utf8mb4;
"""


def memory_mb() -> int:
    """The machine's, or what this container may have of it."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    with contextlib.suppress(OSError, ValueError):  # no control groups, or "max"
        found = min(found, int(CONTAINER.read_text()) >> 20)
    return found


def pool_mb(memory: int) -> int:
    """InnoDB's pool where none is asked for: the other servers, edges and the page cache are on the machine too."""
    return min(2_048, max(128, memory // 8))


def mariadb(folder: Path, port: int, password: str, database: str, config: UpConfig) -> Part:
    """Its user `chat` may do everything with databases whose names begin with "chat". `password`: letters and digits."""
    server = programs.find(programs.MARIADB).path
    install = programs.locate("MariaDB's installer", ("mariadb-install-db", "mysql_install_db"), "mariadb-server")
    data, settings, init = folder / "data", folder / "my.cnf", folder / "init.sql"
    root = os.geteuid() == 0
    conf = MARIADB_CONF.format(
        user="user=root\n" if root else "",
        data=data,
        temporary=folder,
        host=HOST,
        port=port,
        init=init,
        pool=config.mysql_pool_mb or pool_mb(memory_mb()),
    )
    accounts = MARIADB_INIT.format(name=MYSQL_USER, host=HOST, password=password, database=database)
    return Part(
        name="mariadb",
        role="mariadb",
        address=f"{HOST}:{port}",
        command=(server, f"--defaults-file={settings}"),
        folder=folder,
        files={settings: conf, init: accounts},
        once=Once(
            (
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--skip-test-db",
                "--skip-name-resolve",
                "--auth-root-authentication-method=socket",
                *(["--user=root"] if root else []),
            ),
            done=folder / "installed",
            clear=data,
        ),
        check=partial(mysql_ready, f"{HOST}:{port}"),
        stop_s=30.0,
    )
