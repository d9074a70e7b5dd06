"""A stretch of real chat through nginx and both edges: once and in order for everyone, once in history and in MySQL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from chat.client import events as ev
from chat.tools.replay_irc import replay
from tests.harness.cluster import Cluster

SAMPLE = Path(__file__).parents[1] / "data" / "irc" / "ubuntu-2004-11-15.log"

pytestmark = pytest.mark.servers


async def test_a_log_is_shown_and_kept_once_and_in_order(cluster: Cluster):
    mysql = cluster.config.mysql
    rows = f"{mysql.user}:{mysql.password}@{mysql.host}:{mysql.port}/{mysql.database}"
    data = SAMPLE.read_bytes() + b"[13:00] <bob2> caf\xe9, not UTF-8\n[13:00] <tseng> bob2: caf\xc3\xa9\n"
    with trio.fail_after(180):
        report = await replay(data, "ubuntu", [cluster.front], mysql=rows)
    assert report["ok"], report
    assert report["lines"] == 371
    assert report["shown"] == report["to_show"] > 7_000
    assert report["rows"] == report["history"] == 371 + 2 * report["direct"]
    assert len(report["edges"]) == 2, "nginx spreads the connections over both edges"


async def test_a_loss_is_noticed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """The check itself is checked: one device forgets to show one line, another shows one twice."""
    from chat.tools import replay_check, replay_run

    monkeypatch.setattr(replay_check, "QUIET", 1.0)
    show = replay_run.Person._event
    seen: list[ev.MessageShown] = []

    def unreliable(person: replay_run.Person, event: ev.Event) -> None:
        if isinstance(event, ev.MessageShown) and event.message.kind == "text":
            seen.append(event)
            if len(seen) == 20:
                return
            if len(seen) == 40:
                show(person, event)
        show(person, event)

    monkeypatch.setattr(replay_run.Person, "_event", unreliable)
    with trio.fail_after(60):
        report = await replay(b"".join(SAMPLE.read_bytes().splitlines(True)[:60]), "ubuntu", [cluster.front])
    assert (report["ok"], report["lost"], report["doubled"]) == (False, 1, 1)


def test_the_command(cluster: Cluster, tmp_path: Path):
    log = tmp_path / "short.log"
    log.write_bytes(b"".join(SAMPLE.read_bytes().splitlines(True)[:40]))
    edges = ",".join(cluster.address(name) for name in cluster.names("edge"))
    command = [sys.executable, "-m", "chat", "replay-irc", str(log), "--edges", edges, "--speed", "100/s", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["file"] == "short.log"
    assert report["ok"] is True
    assert report["lost"] == report["doubled"] == report["disordered"] == 0
