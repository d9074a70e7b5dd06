"""`chat up` as a person uses it, and what happens to it when processes are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio

from chat.tools.running import PROC, is_alive
from chat.tools.selftest import selftest
from chat.tools.state import State, leftovers, state_of
from tests.harness.cluster import Cluster, own_ports

pytestmark = pytest.mark.servers

ROLES = {"supervisor", "kafka", "redis", "mariadb", "nginx", "edge", "router", "persist", "archiver"}


def chat(folder: Path, *words: str, pass_fds: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """The command, in another process."""
    command = [sys.executable, "-m", "chat", *words, "--state", str(folder)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    return subprocess.run(
        command, env=environ, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=150, pass_fds=pass_fds
    )


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """A cluster started by typing `chat up`, and what that said."""
    folder = tmp_path_factory.mktemp("typed") / ".chat"
    with own_ports() as first:
        try:
            yield (
                folder,
                chat(folder, "up", "--first-port", str(first), "--mysql-pool-mb", "64", "--owner", str(os.getpid())),
            )
        finally:
            chat(folder, "down", "--now")


@pytest.fixture
def up(typed: tuple[Path, subprocess.CompletedProcess[str]]) -> Cluster:
    assert typed[1].returncode == 0, typed[1].stderr
    return Cluster(typed[0])


def test_it_ends_with_a_self_test_and_what_to_type_next(typed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    said = typed[1]
    assert said.returncode == 0, said.stderr
    assert "self-test passed" in said.stderr
    assert [line.split(" talk ")[1].split()[0] for line in said.stdout.splitlines()] == ["alice", "bob"]


def test_status_names_every_process_by_its_own_pid(up: Cluster) -> None:
    said = chat(up.folder, "status", "--json")
    assert said.returncode == 0
    status = json.loads(said.stdout)
    assert status.keys() == {"processes", "front"}
    assert status["front"] == up.front
    assert {row["role"] for row in status["processes"]} == ROLES
    programs = {"kafka": "java", "redis": "redis-", "mariadb": "mariadbd", "nginx": "nginx"}
    for row in status["processes"]:
        assert row.keys() == {"name", "role", "pid", "address", "state"}
        assert row["state"] == "running"
        assert programs.get(row["role"], "python") in os.readlink(PROC / str(row["pid"]) / "exe")


def test_a_second_up_changes_nothing(up: Cluster) -> None:
    before = [(entry.name, entry.pid) for entry in up.processes.processes]
    said = chat(up.folder, "up")
    assert said.returncode == 0, said.stderr
    assert "runs already" in said.stderr
    assert [(entry.name, entry.pid) for entry in up.processes.processes] == before


def test_it_keeps_nothing_of_its_callers(up: Cluster) -> None:
    """A pipe that `make` or a script left open would never end."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    up.kill("supervisor")
    words = ("up", "--no-selftest", "--first-port", "20000", "--mysql-pool-mb", "64")
    said = chat(up.folder, *words, pass_fds=[write])
    os.close(write)
    assert said.returncode == 0, said.stderr
    assert os.read(read, 1) == b""  # its end; BlockingIOError where somebody holds the other
    os.close(read)


def test_nothing_of_it_is_readable_by_others(up: Cluster) -> None:
    for name in (".", "cluster.toml", "cluster.json", "mariadb/init.sql"):
        assert (up.folder / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.parametrize("name", ["edge-1", "router-1", "persist-1", "redis", "mariadb", "nginx", "kafka"])
async def test_what_is_killed_is_back_within_seconds(up: Cluster, name: str) -> None:
    before = up.kill(name)
    await up.back(name, before, 20)
    assert up.entry(name).restarts >= 1


async def test_after_all_that_messages_still_pass(up: Cluster) -> None:
    edges = [up.address(name) for name in up.names("edge")]
    with trio.fail_after(60):
        report = await selftest(up.front, edges)
    assert report.ok, str(report)


async def test_a_paused_process_is_told_as_such(up: Cluster) -> None:
    up.pause("edge-2")
    await up.until(lambda: state_of(up.entry("edge-2")) == "paused")
    assert chat(up.folder, "status").returncode == 1
    up.go_on("edge-2")
    await up.until(lambda: state_of(up.entry("edge-2")) == "running")


async def test_scaling_up_and_down_is_followed_by_nginx(up: Cluster) -> None:
    stream = up.folder / "nginx" / "stream.conf"
    servers: Callable[[], int] = lambda: stream.read_text().count("max_fails")  # noqa: E731
    nginx = up.pid("nginx")
    said = chat(up.folder, "up", "--edges", "3", "--routers", "2", "--no-selftest")
    assert said.returncode == 0, said.stderr
    assert up.names("edge") == ["edge-1", "edge-2", "edge-3"]
    assert up.names("router") == ["router-1", "router-2"]
    await up.until(lambda: servers() == 3)
    said = chat(up.folder, "scale", "--edges", "2", "--routers", "1")
    assert said.returncode == 0, said.stderr
    assert up.names("edge") == ["edge-1", "edge-2"]
    await up.until(lambda: servers() == 2)
    assert up.pid("nginx") == nginx  # it was told to reload, not started again


def test_a_rolling_restart(up: Cluster) -> None:
    services = [*up.names("edge"), *up.names("router"), *up.names("persist")]
    before = {name: up.pid(name) for name in services}
    said = chat(up.folder, "restart", "--rolling")
    assert said.returncode == 0, said.stderr
    assert all(up.pid(name) != before[name] for name in services)
    assert all(state_of(up.entry(name)) == "running" for name in services)


def test_a_supervisor_that_was_killed_is_followed_by_one_that_takes_over(up: Cluster) -> None:
    before = [(entry.name, entry.pid) for entry in up.processes.processes]
    up.kill("supervisor")
    assert chat(up.folder, "status").returncode == 1
    said = chat(up.folder, "up", "--no-selftest", "--first-port", "20000", "--mysql-pool-mb", "64")
    assert said.returncode == 0, said.stderr
    assert [(entry.name, entry.pid) for entry in up.processes.processes] == before


def test_what_outlives_its_leader_and_the_supervisor_keeps_no_port(up: Cluster) -> None:
    """nginx's workers, with the port of the front: clients know no other."""
    front = up.front
    up.kill("supervisor")
    up.kill("nginx")
    said = chat(up.folder, "up", "--first-port", "20000", "--mysql-pool-mb", "64")  # its self-test goes through nginx
    assert said.returncode == 0, said.stderr
    assert up.front == front


def test_down_leaves_nothing_even_without_a_supervisor(up: Cluster) -> None:
    alive = [entry.identity for entry in up.processes.processes if entry.identity]
    workers = [int(child) for child in (PROC / f"{up.pid('nginx')}/task/{up.pid('nginx')}/children").read_text().split()]
    assert workers
    up.kill("supervisor")
    said = chat(up.folder, "down")
    assert said.returncode == 0, said.stderr
    assert not any(is_alive(identity) for identity in alive)
    assert not any((PROC / str(worker)).exists() for worker in workers)
    assert leftovers(State(up.folder)) == []
    assert chat(up.folder, "status").returncode == 3


def test_its_data_outlives_it(up: Cluster) -> None:
    """The same folder again: the same ports, nothing formatted anew."""
    formatted = (up.folder / "kafka" / "formatted").stat().st_mtime
    said = chat(up.folder, "up", "--first-port", "20000", "--owner", str(os.getpid()))
    assert said.returncode == 0, said.stderr
    assert (up.folder / "kafka" / "formatted").stat().st_mtime == formatted


def test_nginx_render_tells_what_nginx_has(up: Cluster) -> None:
    command = [sys.executable, "-m", "chat", "nginx", "render", "--config", str(up.state.settings)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stderr
    assert said.stdout == (up.folder / "nginx" / "stream.conf").read_text()


def test_down_ends_even_a_frozen_cluster(up: Cluster) -> None:
    alive = [entry.identity for entry in up.processes.processes if entry.identity]
    for name in ("supervisor", "edge-1", "redis"):
        up.pause(name)
    said = chat(up.folder, "down", "--now")
    assert said.returncode == 0, said.stderr
    assert not any(is_alive(identity) for identity in alive)
    assert chat(up.folder, "up", "--first-port", "20000", "--owner", str(os.getpid()), "--no-selftest").returncode == 0


def test_sigterm_to_the_supervisor_is_an_orderly_end(up: Cluster) -> None:
    alive = [entry.identity for entry in up.processes.processes if entry.identity]
    up.signal("supervisor", signal.SIGTERM)
    with_limit = trio.run(_ended, State(up.folder))
    assert with_limit
    assert not any(is_alive(identity) for identity in alive)


async def _ended(state: State) -> bool:
    with trio.move_on_after(60):
        while state.is_held():  # noqa: ASYNC110
            await trio.sleep(0.05)
        return True
    return False
