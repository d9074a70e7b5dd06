"""The project's own files that are not code: `kafka/` and `nginx/` beside the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

from chat.errors import SetupError

ROOT: Final = Path(__file__).resolve().parents[2]
JARS: Final = ROOT / "kafka" / "jars"
ARCHIVE: Final = ROOT / "kafka" / "classes.jsa"  # of the classes in them; see classes.py


def project_file(name: str) -> Path:
    """`kafka/topics.toml` → where it is. Raises SetupError: the package was installed without its checkout."""
    path = ROOT / name
    if not path.is_file():
        raise SetupError(f"{name} is not in {ROOT}: install the package from its checkout (pip install -e .)")
    return path


def fill(name: str, values: Mapping[str, object]) -> str:
    """The project's template `name` with `$names` filled in."""
    return Template(project_file(name).read_text()).substitute({key: str(value) for key, value in values.items()})
