"""Where settings come from: flag over environment over file over default.

`CHAT_EDGE_HEARTBEAT_MS=2000` in the environment is `heartbeat_ms = 2000` under `[edge]` in the file, and `--heartbeat-ms
2000` on the command line of `chat edge`. The file is named by `--config` or `CHAT_CONFIG`; without either it is that of the
cluster which `chat up` runs in this folder, if there is one. Whatever no section knows is refused by name.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec
from msgspec import Struct

from chat.config import Config
from chat.errors import SetupError

PREFIX: Final = "CHAT_"
FILE_VARIABLE: Final = "CHAT_CONFIG"
#: Written by `chat up` for the processes that it runs, and for tools used beside it.
CLUSTER_FILE: Final = Path(".chat/cluster.toml")
MASK: Final = "********"
SECRET: Final = frozenset({"password"})

Path_ = tuple[str, ...]  # ("edge", "heartbeat_ms") or ("log_level",)


class SettingsError(SetupError):
    """A setting that cannot be: says which, from where, and what is possible. Exit code 2."""


class Setting(NamedTuple):
    """One effective setting. `source` as a person would name it: "default", "chat.toml", "CHAT_EDGE_NAME", "--name"."""

    path: Path_
    value: Any
    source: str

    @property
    def key(self) -> str:
        return ".".join(self.path)

    def shown(self) -> str:
        """The value as TOML, a secret masked."""
        if self.path[-1] in SECRET and self.value:
            return toml_value(MASK)
        if self.path[-1] == "url":
            return toml_value(re.sub(r"(?<=:)[^:/@]+(?=@)", MASK, self.value))
        return toml_value(self.value)


class Loaded(NamedTuple):
    config: Config
    settings: tuple[Setting, ...]


def fields() -> dict[Path_, Any]:
    """Every setting there is, with its type, in the order of the sections."""
    found: dict[Path_, Any] = {}
    for name, kind in get_type_hints(Config).items():
        if isinstance(kind, type) and issubclass(kind, Struct):
            found.update({(name, field): hint for field, hint in get_type_hints(kind).items()})
        else:
            found[(name,)] = kind
    return found


def variable(path: Path_) -> str:
    """The environment variable of a setting."""
    return PREFIX + "_".join(path).upper()


def load(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[Path_, Any] | None = None, *, cluster: bool = True
) -> Loaded:
    """The effective settings. `flags`: path → value; None as a value means "not given". `cluster`: without a file, that of
    the cluster in this folder is taken.

    Raises SettingsError: an unknown key, a wrong type, a file that is not there or no TOML.
    """
    known = fields()
    found: dict[Path_, Setting] = {path: Setting(path, _default(path), "default") for path in known}
    named = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    if named is None and cluster and CLUSTER_FILE.is_file():
        named = CLUSTER_FILE
    layers = [_from_file(named, known)] if named else []
    layers.append(_from_environment(environ, known))
    layers.append(_from_flags(flags or {}, known))
    for layer in layers:
        found.update({setting.path: setting for setting in layer})
    return Loaded(build(found), tuple(found.values()))


def build(settings: Mapping[Path_, Setting]) -> Config:
    nested: dict[str, Any] = {}
    for path, setting in settings.items():
        (nested if len(path) == 1 else nested.setdefault(path[0], {}))[path[-1]] = setting.value
    return msgspec.convert(nested, Config)


def _default(path: Path_) -> Any:
    value: Any = Config()
    for name in path:
        value = getattr(value, name)
    return value


def _from_file(file: Path, known: Mapping[Path_, Any]) -> Iterator[Setting]:
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise SettingsError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is no TOML: {error}") from error
    sections = {path[0] for path in known if len(path) == 2}
    for name, value in content.items():
        if name in sections and isinstance(value, dict):
            for key, inner in value.items():
                yield _checked((name, key), inner, f"{file}: [{name}] {key}", str(file), known, text=False)
        elif name in sections:
            raise SettingsError(f"{file}: {name} is a section: write [{name}] above its keys")
        else:
            yield _checked((name,), value, f"{file}: {name}", str(file), known, text=False)


def _from_environment(environ: Mapping[str, str], known: Mapping[Path_, Any]) -> Iterator[Setting]:
    variables = {variable(path): path for path in known}
    prefixes = tuple({f"{PREFIX}{path[0].upper()}_" for path in known if len(path) == 2})
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == FILE_VARIABLE:
            continue
        if name in variables:
            yield _checked(variables[name], value, f"{name} in the environment", name, known, text=True)
        # Other programs may have CHAT_… variables of their own: refused is what can only be meant for a section, or is
        # one letter away from a setting.
        elif name.startswith(prefixes) or difflib.get_close_matches(name, variables, 1, 0.92):
            raise SettingsError(f"{name} in the environment is no setting{_nearest(name, variables)}")


def _from_flags(flags: Mapping[Path_, Any], known: Mapping[Path_, Any]) -> Iterator[Setting]:
    for path, value in flags.items():
        if value is not None:
            flag = "--" + path[-1].replace("_", "-")
            yield _checked(path, value, f"{flag} ({'.'.join(path)})", flag, known, text=isinstance(value, str))


def _checked(path: Path_, value: Any, where: str, source: str, known: Mapping[Path_, Any], *, text: bool) -> Setting:
    if path not in known:
        names = {".".join(p) for p in known}
        raise SettingsError(f"{where} is no setting{_nearest('.'.join(path), names)}")
    if text and known[path] is bool:
        value = {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
    try:
        return Setting(path, msgspec.convert(value, known[path], strict=not text), source)
    except msgspec.ValidationError as error:
        said = str(error).removesuffix(" - at `$`")
        raise SettingsError(f"{where}: {said}, found {'a value' if path[-1] in SECRET else repr(value)}") from error


def _nearest(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.6)
    return f"; the nearest is {near[0]}" if near else "; `chat config` lists them all"


# ------------------------------------------------------------------ writing


def toml_value(value: Any) -> str:
    """A string, number or boolean as TOML. (JSON strings are TOML strings as long as nothing is \\u-escaped in pairs.)"""
    return json.dumps(value, ensure_ascii=False)


def to_toml(settings: tuple[Setting, ...], *, masked: bool, sources: bool) -> str:
    """The settings as a file that `load` takes again (unless masked)."""
    lines: list[str] = []
    section = ""
    for setting in sorted(settings, key=lambda s: len(s.path) > 1):  # stable: keys before sections
        if len(setting.path) == 2 and setting.path[0] != section:
            section = setting.path[0]
            lines += ["", f"[{section}]"]
        text = setting.shown() if masked else toml_value(setting.value)
        comment = f"  # {setting.source}" if sources and setting.source != "default" else ""
        lines.append(f"{setting.path[-1]} = {text}{comment}")
    return "\n".join(lines) + "\n"


def settings_of(config: Config, source: str) -> tuple[Setting, ...]:
    """Every setting of a Config that was put together in the program."""
    found = []
    for path in fields():
        value: Any = config
        for name in path:
            value = getattr(value, name)
        found.append(Setting(path, value, source))
    return tuple(found)
