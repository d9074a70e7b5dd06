"""compose.yaml cannot be run here; it can be held to what the project says elsewhere."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from chat.cli import run
from chat.settings import load
from chat.tools.project import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "chat-cluster"]


def filled(value: object) -> str:
    """`${NAME:-default}` as compose fills it in without an environment; `$$` is a dollar sign."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)).replace("$$", "$")


def environment(name: str) -> dict[str, str]:
    return {key: filled(value) for key, value in SERVICES[name].get("environment", {}).items()}


def test_official_images_in_the_versions_that_are_tested() -> None:
    pom = (ROOT / "kafka" / "pom.xml").read_text()
    version = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>(.*?)</version>", pom)
    assert version is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"
    assert SERVICES["redis"]["image"] == "redis:7"
    assert SERVICES["mariadb"]["image"] == "mariadb:10.11"
    assert SERVICES["nginx"]["image"].startswith("nginx:")


@pytest.mark.parametrize("name", OURS)
def test_the_environment_is_settings_that_exist(name: str) -> None:
    config = load(None, environment(name), cluster=False).config
    assert config.kafka.bootstrap == "kafka:9092"
    assert config.mysql.password == environment("mariadb")["MARIADB_PASSWORD"]
    assert config.mysql.user == environment("mariadb")["MARIADB_USER"]


@pytest.mark.parametrize("name", OURS)
def test_the_commands_exist(name: str) -> None:
    words = [word for word in SERVICES[name]["command"] if not word.startswith(("-", "/"))]
    assert run([*words, "--help"]) == 0


@pytest.mark.parametrize("name", ["edge-1", "edge-2"])
def test_nginx_reaches_each_edge_by_its_service(name: str) -> None:
    edge = load(None, environment(name), cluster=False).config.edge
    assert edge.name == name
    assert edge.announce == f"{name}:{edge.listen_proxy.rpartition(':')[2]}"


def test_kafka_is_set_as_in_its_own_file() -> None:
    lines = [line.split("=", 1) for line in (ROOT / "kafka" / "server.properties").read_text().splitlines() if "=" in line]
    properties = {key: value for key, value in lines if not key.startswith("#") and "$" not in value}
    given = {key.removeprefix("KAFKA_").lower().replace("_", "."): v for key, v in environment("kafka").items()}
    common = properties.keys() & given.keys()
    assert len(common) >= 10
    assert {key: properties[key] for key in common} == {key: given[key] for key in common}


def test_what_is_depended_on_and_mounted_is_there() -> None:
    for service in SERVICES.values():
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in COMPOSE["volumes"]
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


def test_the_image_has_the_files_that_are_used_at_run_time() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = " ".join(copied).split()
    assert {"chat", "nginx", "kafka/topics.toml", "pyproject.toml", "constraints.txt"} <= set(names)
    assert all((ROOT / name).exists() for name in names)
