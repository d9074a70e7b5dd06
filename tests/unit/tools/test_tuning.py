"""docs/tuning.md says what the code says: each value in its tables is looked up."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from chat.config import Config
from chat.settings import fields
from chat.tools import checks, servers
from chat.tools.checks import all_checks
from chat.tools.project import ROOT
from chat.tools.upstream import size

TEXT = (ROOT / "docs" / "tuning.md").read_text()


def rows(heading: str) -> Iterator[tuple[str, str]]:
    """Setting and value of the tables of a section."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, heading
    for names, values in re.findall(r"^\| ((?:`[\w.\-]+`(?:, )?)+) \| ([^|]+) \|", section, re.MULTILINE):
        several = re.findall(r"`([^`]+)`", names)
        yield from zip(several, values.strip().split(", ") if len(several) > 1 else [values.strip()], strict=True)


@pytest.mark.parametrize("heading", ["An edge", "Router and persist"])
def test_the_services_settings(heading: str) -> None:
    found = dict(rows(heading))
    assert len(found) > 10
    for name, value in found.items():
        section, _, field = name.partition(".")
        assert str(getattr(getattr(Config(), section), field)) == value, name


def test_every_setting_that_is_named_is_one() -> None:
    known = {".".join(path) for path in fields()}
    named = set(re.findall(r"`((?:kafka|redis|mysql|edge|router|persist|nginx|up)\.[a-z_]+)`", TEXT))
    assert named - known == set()


def test_kafkas() -> None:
    said = dict(re.findall(r"^([\w.]+)=(.*)$", (ROOT / "kafka" / "server.properties").read_text(), re.MULTILINE))
    found = dict(rows("Kafka"))
    assert len(found) > 5
    assert {name: said.get(name) for name in found} == found


def test_mariadbs() -> None:
    said = dict(re.findall(r"^([\w\-]+)=?(.*)$", servers.MARIADB_CONF, re.MULTILINE))
    pool = said.pop("innodb-buffer-pool-size")
    found = dict(rows("MariaDB"))
    assert pool == "{pool}M"
    assert found.pop("innodb-buffer-pool-size") == "`up.mysql_pool_mb`, by memory"
    assert Config().up.mysql_pool_mb == 0
    assert found.pop("skip-log-bin") == "on"
    assert "skip-log-bin" in said
    assert len(found) > 5
    assert {name: said.get(name) for name in found} == found


def test_redis() -> None:
    said = dict(re.findall(r"^([\w\-]+) (.*)$", servers.REDIS_CONF, re.MULTILINE))
    found = dict(rows("Redis"))
    assert len(found) == 4
    assert {name: said.get(name) for name in found} == found


def test_nginx() -> None:
    templates = "".join((ROOT / "nginx" / f"{name}.conf.template").read_text() for name in ("nginx", "stream"))
    for name, _ in rows("nginx"):
        assert name in templates, name
    assert f"`nginx.workers`, {Config().nginx.workers}" in TEXT
    assert f"`nginx.idle_s`, {Config().nginx.idle_s} s" in TEXT
    assert "proxy_buffer_size 4k;" in templates


def test_what_a_cap_of_20000_descriptors_means() -> None:
    crowd = replace(Config().nginx, clients=1_000_000)
    assert f"one worker ends at {size(replace(crowd, workers=1), 20_000).clients:,} clients" in TEXT
    assert f"two at {size(replace(crowd, workers=2), 20_000).clients:,}" in TEXT


def test_what_doctor_checks_is_in_the_table() -> None:
    needed = {check.name: check.needed for check in all_checks(Config())}
    edge, worker = (int(needed[name].split()[0]) for name in ("descriptors, edge", "descriptors, nginx"))
    assert f"| {edge:,}: one a client, and {checks.EDGE_SPARE} for the rest |" in TEXT
    assert f"| {worker:,}: two a client" in TEXT
    assert f"| {int(needed['fs.file-max'].split()[0]):,}: four a client" in TEXT
    assert f"| {int(needed['net.core.somaxconn'].split()[0]):,}: clients" in TEXT
    assert f"| {int(needed['net.ipv4.ip_local_port_range'].split()[0]):,} ports" in TEXT
    for name in ("fs.nr_open", "fs.file-max", "net.core.somaxconn", "net.ipv4.ip_local_port_range"):
        assert f"| `{name}` |" in TEXT
