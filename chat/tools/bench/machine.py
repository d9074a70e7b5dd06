"""On what it was measured: the machine, the programs, the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chat.errors import SetupError
from chat.tools import programs
from chat.tools.project import JARS, ROOT


def facts() -> dict[str, Any]:
    """Nothing that names the machine or its user."""
    commit, changed = _commit()
    return {
        "processor": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": _kafka(),
        **{need.title.lower(): _version(need) for need in (programs.REDIS, programs.MARIADB, programs.NGINX)},
        "java": _java(),
        "packages": {name: version(name) for name in ("trio", "trio-asyncio", "aiokafka", "redis", "aiomysql", "msgspec")},
        "commit": commit,
        "changed": changed,  # files that are not as in the commit
    }


def moment() -> dict[str, Any]:
    """When, and how busy the machine was before."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load_average": round(os.getloadavg()[0], 2)}


def _first(path: Path, pattern: str) -> str:
    with suppress(OSError):
        if found := re.search(pattern, path.read_text()):
            return found[1].strip()
    return ""


def _version(need: programs.Need) -> str:
    try:
        path = programs.find(need).path
    except SetupError:
        return ""
    done = subprocess.run([path, need.ask], capture_output=True, text=True, check=False, timeout=20)
    found = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
    return found[0] if found else ""


def _java() -> str:
    try:
        return programs.find_java().shown
    except SetupError:
        return ""


def _kafka() -> str:
    names = [path.name for path in JARS.glob("kafka_2.13-*.jar")]
    return names[0].removeprefix("kafka_2.13-").removesuffix(".jar") if names else ""


def _commit() -> tuple[str, int]:
    """The commit of the checkout, and how many files of the program differ from it; "" where it is none."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "chat", "kafka", "nginx")
    except (OSError, subprocess.SubprocessError):
        return "", 0
    return head.strip(), len(changed.splitlines())


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    ).stdout  # fmt: skip
