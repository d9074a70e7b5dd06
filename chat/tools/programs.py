"""Which programs of the machine are used, and whether they are new enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from chat.errors import SetupError
from chat.tools.project import JARS

#: Looked at besides PATH, where Debian keeps daemons and a plain user's PATH often does not lead.
DAEMON_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")
MODULE_FOLDERS: Final = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
JAVA_FOLDER: Final = Path("/usr/lib/jvm")
BUILT_IN: Final = "built-in"
MENDED_BY: Final = "scripts/setup.sh"


class Program(NamedTuple):
    path: str
    version: tuple[int, ...]

    @property
    def shown(self) -> str:
        return ".".join(map(str, self.version))


class Need(NamedTuple):
    """A program that must be there: its names, how it tells its version, the least version, Debian's package."""

    title: str
    names: tuple[str, ...]
    ask: str
    pattern: str
    least: tuple[int, ...]
    package: str


REDIS: Final = Need("Redis", ("redis-server",), "--version", r"v=(\d+)\.(\d+)", (6, 2), "redis-server")
MARIADB: Final = Need("MariaDB", ("mariadbd", "mysqld"), "--version", r"Ver (\d+)\.(\d+)", (10, 11), "mariadb-server")
NGINX: Final = Need("nginx", ("nginx",), "-v", r"nginx/(\d+)\.(\d+)", (1, 18), "nginx")
JAVA: Final = Need("Java", ("java",), "-version", r'version "(\d+)', (17,), "openjdk-17-jre-headless")


def find(need: Need, environ: Mapping[str, str] = os.environ) -> Program:
    """The program, checked. Raises SetupError: none there, or too old, with the line that mends it."""
    path = locate(need.title, need.names, need.package, environ)
    program = Program(path, version(path, need))
    if program.version < need.least:
        least = ".".join(map(str, need.least))
        raise SetupError(f"{need.title} {least} is needed; found {program.shown} at {path}; {mend(need.package)}")
    return program


def locate(title: str, names: tuple[str, ...], package: str, environ: Mapping[str, str] = os.environ) -> str:
    """The path of the first of `names` that is there. Raises SetupError."""
    for name in names:
        if path := _which(name, environ):
            return path
    raise SetupError(f"{title} was not found ({', '.join(names)}); {mend(package)}")


def find_java(environ: Mapping[str, str] = os.environ) -> Program:
    """JAVA_HOME first, then PATH, then the folder where Debian installs several side by side.

    Raises SetupError naming what was found. A JAVA_HOME that is too old is an error only where no other is new enough.
    """
    home = environ.get("JAVA_HOME")
    candidates = [Path(home) / "bin" / "java"] if home else []
    if on_path := _which("java", environ):
        candidates.append(Path(on_path))
    candidates += sorted(JAVA_FOLDER.glob("*/bin/java"))
    found: list[Program] = []
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            program = Program(str(candidate), version(str(candidate), JAVA))
            if program.version >= JAVA.least:
                return program
            found.append(program)
    if found:
        raise SetupError(f"Kafka 4 needs Java 17; found {found[0].shown} at {found[0].path}; {mend(JAVA.package)}")
    raise SetupError(f"Kafka 4 needs Java 17; none was found by JAVA_HOME or PATH; {mend(JAVA.package)}")


def find_stream_module(configured: str = "") -> str | None:
    """The path of nginx's stream module, or None where it is built in. Raises SetupError."""
    if configured == BUILT_IN:
        return None
    if configured:
        if Path(configured).is_file():
            return configured
        raise SetupError(f"nginx's stream module is not at {configured} ([nginx] module)")
    nginx = find(NGINX)
    built = subprocess.run([nginx.path, "-V"], capture_output=True, text=True, check=False).stderr
    if re.search(r"--with-stream(\s|$)", built):
        return None
    for folder in MODULE_FOLDERS:
        module = Path(folder) / "ngx_stream_module.so"
        if module.is_file():
            return str(module)
    raise SetupError(f"nginx {nginx.shown} has no stream module; {mend('libnginx-mod-stream')}")


def find_jars() -> Path:
    """The folder of Kafka's jars, complete by name. (Their sums are checked when they are fetched.)"""
    wanted = [line.split()[1] for line in (JARS.parent / "jars.sha256").read_text().splitlines() if line.strip()]
    missing = [name for name in wanted if not (JARS / name).is_file()]
    if missing:
        raise SetupError(f"{len(missing)} of Kafka's {len(wanted)} jars are not in {JARS}; run: scripts/kafka.sh")
    return JARS


def version(path: str, need: Need) -> tuple[int, ...]:
    """What the program says of itself; (0,) where it says nothing of the kind."""
    try:
        done = subprocess.run([path, need.ask], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    match = re.search(need.pattern, done.stdout + done.stderr)
    if match is None:
        return (0,)
    numbers = tuple(int(part) for part in match.groups())
    return numbers if numbers[0] != 1 or need is not JAVA else (8,)  # Java 8 calls itself 1.8


def mend(package: str) -> str:
    return f"run: {MENDED_BY}, or apt-get install {package}"


def _which(name: str, environ: Mapping[str, str]) -> str | None:
    path = os.pathsep.join([environ.get("PATH", os.defpath), *DAEMON_FOLDERS])
    return shutil.which(name, path=path)
