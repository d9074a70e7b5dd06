"""`chat doctor` on machines that are not this one."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from chat import cli
from chat.config import Config, NginxConfig, UpConfig
from chat.errors import SetupError
from chat.tools import checks, programs
from chat.tools.checks import Check, all_checks


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is there; sysctl as a plain Debian has it."""
    for name, value in {
        "fs/file-max": "9223372036854775807",
        "fs/nr_open": "1048576",
        "net/core/somaxconn": "4096",
        "net/ipv4/ip_local_port_range": "32768\t60999",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value + "\n")
    monkeypatch.setattr(checks, "SYSCTL", tmp_path)
    monkeypatch.setattr(checks, "is_free", lambda port, host: True)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 65_536))
    monkeypatch.setattr(programs, "find_java", lambda: programs.Program("/usr/bin/java", (17,)))
    monkeypatch.setattr(programs, "find", lambda need: programs.Program("/usr/bin/x", need.least))
    monkeypatch.setattr(programs, "find_jars", lambda: Path("/jars"))
    monkeypatch.setattr(programs, "find_stream_module", lambda configured: None)
    return tmp_path


def found(name: str, config: Config | None = None) -> Check:
    return next(check for check in all_checks(config or Config()) if check.name == name)


def test_a_fit_machine(machine: Path) -> None:
    assert {check.level for check in all_checks(Config())} == {"ok"}


def test_too_few_descriptors_say_for_how_many_clients_they_are_enough(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 4096))
    check = found("descriptors, edge")
    assert check.level == "note"
    assert check.needed.startswith("6200 ")
    assert check.found == "4096: enough for 7792 clients"
    assert "6200" in check.mend


@pytest.mark.parametrize("name", ["fs.file-max", "net.core.somaxconn"])
def test_a_small_number_comes_with_the_line_that_mends_it(machine: Path, name: str) -> None:
    (machine / name.replace(".", "/")).write_text("128\n")
    check = found(name)
    assert (check.level, check.found) == ("note", "128")
    assert check.mend.startswith(f"sysctl -w {name}=")


def test_edges_ports_among_those_of_outgoing_connections(machine: Path) -> None:
    (machine / "net/ipv4/ip_local_port_range").write_text("1024 65535\n")
    assert found("net.ipv4.ip_local_port_range").level == "note"


def test_a_taken_port_is_no_obstacle(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "is_free", lambda port, host: port != 7000)
    assert found("port 7000").level == "note"


def test_own_servers_are_not_looked_for(machine: Path) -> None:
    config = Config(up=UpConfig(parts="nginx"), nginx=NginxConfig())
    names = {check.name for check in all_checks(config)}
    assert "nginx" in names
    assert not names & {"Java", "Redis", "MariaDB"}


def test_a_missing_program_ends_with_1(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> programs.Program:
        raise SetupError("Kafka 4 needs Java 17; found 11 at /usr/bin/java; run: scripts/setup.sh, or apt-get install it")

    monkeypatch.setattr(programs, "find_java", missing)
    assert cli.run(["doctor", "--json"]) == cli.FAILED
    (check,) = [c for c in json.loads(capsys.readouterr().out)["checks"] if c["level"] == "bad"]
    assert check["found"] == "Kafka 4 needs Java 17; found 11 at /usr/bin/java"
    assert check["mend"] == "scripts/setup.sh, or apt-get install it"
    assert cli.run(["doctor"]) == cli.FAILED
    assert "\x1b" not in capsys.readouterr().out
