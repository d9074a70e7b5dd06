"""Finding the machine's programs, with programs that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.errors import SetupError
from chat.tools import programs


def script(folder: Path, name: str, says: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "JAVA_FOLDER", tmp_path / "jvm")
    monkeypatch.setattr(programs, "DAEMON_FOLDERS", ())


def java(folder: Path, version: str) -> str:
    return script(folder, "java", f'openjdk version "{version}"')


def test_java_home_comes_first(tmp_path: Path) -> None:
    java(tmp_path / "path", "21.0.1")
    home = java(tmp_path / "home" / "bin", "17.0.15")
    found = programs.find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path")})
    assert found == (home, (17,))


def test_an_old_java_home_is_passed_over_for_a_new_one(tmp_path: Path) -> None:
    java(tmp_path / "home" / "bin", "11.0.2")
    new = java(tmp_path / "jvm" / "java-17" / "bin", "17.0.1")
    assert programs.find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": ""}).path == new


@pytest.mark.parametrize(("version", "shown"), [("11.0.2", "11"), ("1.8.0_392", "8")])
def test_too_old_a_java_says_what_was_found_and_what_mends_it(tmp_path: Path, version: str, shown: str) -> None:
    path = java(tmp_path / "path", version)
    with pytest.raises(SetupError) as caught:
        programs.find_java({"PATH": str(tmp_path / "path")})
    assert str(caught.value).startswith(f"Kafka 4 needs Java 17; found {shown} at {path}; run: ")


def test_no_java(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none was found by JAVA_HOME or PATH.*openjdk-17-jre-headless"):
        programs.find_java({"PATH": str(tmp_path)})


def test_a_server_that_is_missing_or_too_old(tmp_path: Path) -> None:
    environ = {"PATH": str(tmp_path)}
    with pytest.raises(SetupError, match=r"Redis was not found.*apt-get install redis-server"):
        programs.find(programs.REDIS, environ)
    script(tmp_path, "redis-server", "Redis server v=5.0.3 sha=0")
    with pytest.raises(SetupError, match=r"Redis 6\.2 is needed; found 5\.0"):
        programs.find(programs.REDIS, environ)
    script(tmp_path, "redis-server", "Redis server v=7.0.15 sha=0")
    assert programs.find(programs.REDIS, environ).version == (7, 0)


def test_a_program_that_does_not_tell_its_version(tmp_path: Path) -> None:
    assert programs.version(script(tmp_path, "redis-server", "hello"), programs.REDIS) == (0,)
    assert programs.version(str(tmp_path / "nowhere"), programs.REDIS) == (0,)
