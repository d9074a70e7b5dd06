"""Flag over environment over file over default; whatever is unknown or wrong is refused, naming where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.config import Config
from chat.settings import SettingsError, fields, load, settings_of, to_toml, variable

EDGE_WEIGHT = ("edge", "weight")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chat.toml"
    path.write_text('log_level = "debug"\n[edge]\nweight = 2\nlinger_ms = 4\n')
    return path


def test_nothing_given_is_the_default() -> None:
    assert load(None, {}, cluster=False).config == Config()


def test_each_source_overrides_the_one_below(file: Path) -> None:
    assert load(file, {}).config.edge.weight == 2
    assert load(file, {"CHAT_EDGE_WEIGHT": "3"}).config.edge.weight == 3
    assert load(file, {"CHAT_EDGE_WEIGHT": "3"}, {EDGE_WEIGHT: "4"}).config.edge.weight == 4
    assert load(file, {}, {EDGE_WEIGHT: None}).config.edge.weight == 2


def test_the_file_may_be_named_by_the_environment(file: Path) -> None:
    config = load(None, {"CHAT_CONFIG": str(file)}).config
    assert (config.log_level, config.edge.linger_ms) == ("debug", 4.0)


def test_a_cluster_in_this_folder_is_found_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".chat").mkdir()
    Path(".chat/cluster.toml").write_text('[kafka]\nbootstrap = "127.0.0.1:19092"\n')
    assert load(None, {}).config.kafka.bootstrap == "127.0.0.1:19092"
    assert load(None, {}, cluster=False).config.kafka.bootstrap == Config().kafka.bootstrap


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("yes", True), ("off", False), ("False", False)])
def test_booleans_in_the_environment(text: str, value: bool) -> None:
    assert load(None, {"CHAT_EDGE_LIMIT_LOOPBACK": text}, cluster=False).config.edge.limit_loopback is value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[edge]\nwheight = 2\n", "[edge] wheight is no setting; the nearest is edge.weight"),
        ("[edges]\nweight = 2\n", "edges is no setting"),
        ("edge = 2\n", "edge is a section: write [edge]"),
        ('[edge]\nweight = "2"\n', "[edge] weight: Expected `int`, got `str`, found '2'"),
        ('log_level = "loud"\n', "log_level: Invalid enum value 'loud'"),
        ("[edge\n", "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert said in str(caught.value)
    assert "wrong.toml" in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml cannot be read"):
        load(Path("nowhere.toml"), {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CHAT_EDGE_WHEIGHT", "the nearest is CHAT_EDGE_WEIGHT"),
        ("CHAT_EGDE_WEIGHT", "the nearest is CHAT_EDGE_WEIGHT"),
    ],
)
def test_an_unknown_variable_of_a_section_is_refused(name: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {name: "1"}, cluster=False)
    assert name in str(caught.value)
    assert said in str(caught.value)


def test_variables_of_other_programs_are_left_alone() -> None:
    environ = {"CHAT_SERVER": "127.0.0.1:7000", "CHAT_TEST_KAFKA": "127.0.0.1:1", "HOME": "/root"}
    assert load(None, environ, cluster=False).config == Config()


def test_a_flag_of_the_wrong_type_names_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"--weight \(edge\.weight\): Expected `int`"):
        load(None, {}, {EDGE_WEIGHT: "heavy"}, cluster=False)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    given = load(None, {"CHAT_MYSQL_PASSWORD": 'quote " and 字 \\', "CHAT_EDGE_LINGER_MS": "2.5"}, cluster=False)
    path.write_text(to_toml(settings_of(given.config, "here"), masked=False, sources=False))
    assert load(path, {}).config == given.config


def test_passwords_are_masked_and_sources_shown() -> None:
    environ = {"CHAT_MYSQL_PASSWORD": "hunter2", "CHAT_REDIS_URL": "redis://:hunter2@redis:6379/0"}
    text = to_toml(load(None, environ, cluster=False).settings, masked=True, sources=True)
    assert "hunter2" not in text
    assert 'password = "********"  # CHAT_MYSQL_PASSWORD' in text
    assert 'url = "redis://:********@redis:6379/0"  # CHAT_REDIS_URL' in text


def test_a_wrong_password_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "chat.toml"
    path.write_text("[mysql]\npassword = 12345\n")
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert "12345" not in str(caught.value)


def test_every_setting_has_a_variable_of_its_own() -> None:
    names = [variable(path) for path in fields()]
    assert len(set(names)) == len(names)
