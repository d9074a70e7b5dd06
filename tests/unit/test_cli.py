"""The command line: what it offers, how it refuses, what it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat import cli
from chat.cli import COMMANDS, DONE, FAILED, UNREACHABLE, USAGE, run
from chat.errors import PartAway, SetupError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CHAT_CONFIG", "CHAT_EDGE_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", [name for name, entry in COMMANDS.items() if cli.is_there(entry)])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == DONE
    assert f"Usage: chat {command}" in capsys.readouterr().out


def test_every_command_of_the_table_is_there() -> None:
    assert [name for name, entry in COMMANDS.items() if not cli.is_there(entry)] == []


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == DONE
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("words", [["nonsense"], ["up", "--nonsense"], ["scale"], ["nginx", "render", "--watch"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_a_wrong_setting_is_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CHAT_EDGE_WEIGHT", "heavy")
    assert run(["config"]) == USAGE
    assert capsys.readouterr().err.startswith("chat: CHAT_EDGE_WEIGHT in the environment: Expected `int`")


def test_config_shows_what_is_in_force(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CHAT_EDGE_NAME", "edge-9")
    assert run(["config", "--edge-weight", "7"]) == DONE
    out = capsys.readouterr().out
    assert 'name = "edge-9"  # CHAT_EDGE_NAME' in out
    assert "weight = 7  # --weight" in out


def test_a_role_has_its_settings_as_flags_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["edge", "--help"]) == DONE
    out = " ".join(capsys.readouterr().out.split())
    assert "--listen-proxy VALUE clients through nginx" in out
    assert "or CHAT_KAFKA_BOOTSTRAP" in out


def test_no_cluster_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json"]) == UNREACHABLE
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"processes": [], "front": ""}
    assert "chat up" in captured.err
    assert run(["down"]) == DONE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SetupError("mend this"), FAILED),
        (PartAway("kafka", "not there"), UNREACHABLE),
        (ExceptionGroup("nursery", [ExceptionGroup("inner", [SetupError("mend this")])]), FAILED),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_that_a_person_can_mend_are_one_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**kwargs: object) -> None:
        raise error

    monkeypatch.setattr(cli.chat, "main", fail)
    assert run([]) == code
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**kwargs: object) -> None:
        raise ExceptionGroup("nursery", [SetupError("mend this"), ValueError("a bug")])

    monkeypatch.setattr(cli.chat, "main", fail)
    with pytest.raises(ExceptionGroup):
        run([])
