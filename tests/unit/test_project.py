"""The project's own files agree with each other."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from chat.tools.project import ROOT


def test_every_package_that_is_required_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        required = Requirement(text)
        assert required.specifier.contains(pins.get(canonicalize_name(required.name), "none")), text


def test_every_jar_has_a_sum_and_the_broker_its_version() -> None:
    lines = (ROOT / "kafka" / "jars.sha256").read_text().splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{64}  [\w.\-]+\.jar", line) for line in lines)
    version = re.search(
        r"<artifactId>kafka_2\.13</artifactId>\s*<version>(.*?)</version>", (ROOT / "kafka/pom.xml").read_text()
    )
    assert version is not None
    assert any(line.endswith(f"  kafka_2.13-{version[1]}.jar") for line in lines)


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text()
    for path in (script, *(ROOT / "scripts").glob("*.sh")):
        assert path.stat().st_mode & 0o111, path
