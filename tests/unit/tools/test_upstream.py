"""nginx's upstream from the edges' leases."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.config import NginxConfig
from chat.errors import SetupError
from chat.tools.nginx import rewrite_stream, stream_conf, write_stream
from chat.tools.upstream import Leases, Upstream, render_stream, size

ONE, TWO = Upstream("edge-1", "127.0.0.1:7201", 1), Upstream("edge-2", "unix:/tmp/chat-0-a1/edge-2.sock", 3)
BOTH = {"edge-1": ONE, "edge-2": TWO}


def test_edges_in_order_with_weights() -> None:
    text = stream_conf(NginxConfig(), frozenset({TWO, ONE}))
    first, second = (
        text.index(f"server {one.address} weight={w} max_fails=1 fail_timeout=1s;") for one, w in ((ONE, 1), (TWO, 3))
    )
    assert first < second
    assert "proxy_timeout 300s;" in text
    assert "$" not in text.replace("$remote_addr", "")


@pytest.mark.parametrize(
    ("balance", "line"),
    [("least_conn", "least_conn;"), ("hash", "hash $remote_addr;"), ("consistent_hash", "hash $remote_addr consistent;")],
)
def test_ways_to_balance(balance: str, line: str) -> None:
    assert f"    {line}\n" in stream_conf(NginxConfig(balance=balance), frozenset({ONE}))  # type: ignore[arg-type]


def test_round_robin_is_what_nginx_does_by_itself() -> None:
    text = stream_conf(NginxConfig(balance="round_robin"), frozenset({ONE}))
    assert "least_conn;" not in text
    assert "hash $" not in text


def test_no_edge_is_still_a_configuration() -> None:
    assert "server 127.0.0.1:1 down;" in stream_conf(NginxConfig(), frozenset())


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1", "127.0.0.1:7201; }", "host name:1", "unix:", "unix:edge.sock", "unix:/tmp/a b", "unix:/tmp/a;}"],
)
def test_an_address_cannot_write_configuration(address: str) -> None:
    with pytest.raises(SetupError):
        render_stream(NginxConfig(), [Upstream("edge-1", address, 1)])


def test_a_name_cannot_write_configuration() -> None:
    text = str(render_stream(NginxConfig(), [Upstream("x\nserver evil:1;", "127.0.0.1:7201", 1)])["servers"])
    assert len(text.splitlines()) == 1


def test_the_file_is_written_only_when_it_changes(tmp_path: Path) -> None:
    assert write_stream(tmp_path, NginxConfig(), frozenset({ONE}))
    assert not write_stream(tmp_path, NginxConfig(), frozenset({ONE}))
    assert write_stream(tmp_path, NginxConfig(), frozenset({ONE, TWO}))


def test_other_settings_keep_the_edges(tmp_path: Path) -> None:
    write_stream(tmp_path, NginxConfig(listen="127.0.0.1:7000"), frozenset({ONE, TWO}))
    assert rewrite_stream(tmp_path, NginxConfig(listen="127.0.0.1:7001"))
    assert (tmp_path / "stream.conf").read_text() == stream_conf(NginxConfig(listen="127.0.0.1:7001"), frozenset({ONE, TWO}))
    assert not rewrite_stream(tmp_path, NginxConfig(listen="127.0.0.1:7001"))
    assert rewrite_stream(tmp_path / "new", NginxConfig())


def test_descriptors_fit_the_clients() -> None:
    roomy = size(NginxConfig(clients=12_000, workers=2), 1 << 20)
    assert roomy.clients >= 12_000
    narrow = size(NginxConfig(clients=12_000, workers=2), 4_096)
    assert narrow.descriptors == 4_096
    assert narrow.clients < 12_000


def test_an_edge_comes_in_at_once_and_goes_when_it_is_lost() -> None:
    leases = Leases(lost_ms=3_000)
    assert leases.observe({"edge-1": ONE}, 0.0)
    assert leases.observe(BOTH, 0.5)
    assert not leases.observe({"edge-1": ONE}, 1.0)
    assert not leases.observe({"edge-1": ONE}, 3.4)
    assert leases.observe({"edge-1": ONE}, 3.5)
    assert leases.current == {ONE}


def test_an_edge_that_is_started_again_changes_nothing() -> None:
    leases = Leases(lost_ms=3_000)
    leases.observe(BOTH, 0.0)
    assert not any(leases.observe({"edge-1": ONE}, at) for at in (1.0, 2.0, 2.9))
    assert not leases.observe(BOTH, 2.95)
    assert not leases.observe({"edge-1": ONE}, 5.9)


def test_an_edge_on_another_address_takes_its_own_place() -> None:
    leases = Leases(lost_ms=3_000)
    leases.observe(BOTH, 0.0)
    moved = TWO._replace(address="127.0.0.1:7209")
    assert leases.observe({"edge-1": ONE, "edge-2": moved}, 1.0)
    assert leases.current == {ONE, moved}


def test_redis_away_or_emptied_takes_no_edge_out() -> None:
    leases = Leases(lost_ms=3_000)
    leases.observe(BOTH, 0.0)
    assert not any(leases.observe({}, at) for at in (1.0, 10.0, 100.0))
    assert not leases.observe({"edge-1": ONE}, 101.0)  # the first one that is back; the other has its time
    assert not leases.observe(BOTH, 102.0)
    assert leases.current == {ONE, TWO}
