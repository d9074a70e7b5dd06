"""The load's small parts: frames, the open loop, accounts, processes, pre-flight, the report."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from chat import protocol
from chat.errors import SetupError
from chat.metrics import EdgeMetrics, PersistMetrics, RouterMetrics
from chat.tools.load import hops, preflight, wire
from chat.tools.load.accounts import load_accounts
from chat.tools.load.pace import Pace
from chat.tools.load.process import Server, cpu_between, usage, with_children
from chat.tools.load.report import Report, as_text

# ---------------------------------------------------------------- frames


@given(st.integers(0, 2**40), st.integers(0, 10**15), st.integers(16, 300), st.booleans())
def test_a_sent_frame_is_what_the_edge_decodes(seq: int, stamp: int, size: int, to_group: bool) -> None:
    template = wire.SendTemplate(to=None if to_group else 5, group=7 if to_group else None, stream=9, size=size)
    [body], rest = wire.cut(template.frame(seq, stamp))
    request = protocol.decode_request(body)
    assert isinstance(request, protocol.Send)
    assert (request.to, request.group) == ((None, 7) if to_group else (5, None))
    assert (request.stream, request.seq, len(request.text)) == (9, seq, size)
    assert wire.stamp_of(request.text) == stamp
    assert not rest


def test_the_other_frames_are_valid_too() -> None:
    for frame in (wire.HELLO, wire.HEARTBEAT, wire.GOODBYE, wire.sync_frame("u5", 3), wire.ack_frame("g7", 8)):
        [body], _ = wire.cut(frame)
        protocol.decode_request(body)


@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(0, 600))
def test_cutting_anywhere_loses_nothing(bodies: list[bytes], at: int) -> None:
    stream = b"".join(protocol.frame(body) for body in bodies)
    first, rest = wire.cut(stream[:at])
    second, left = wire.cut(rest + stream[at:])
    assert first + second == bodies
    assert not left


def test_a_delivery_is_decoded_in_any_order_of_fields() -> None:
    event = wire.decode(b'{"pos":9,"prev":null,"extra":{"a":[]},"seq":1,"stream":2,"text":"x","from":3,"type":"message"}')
    assert isinstance(event, wire.Delivery)
    assert (event.pos, event.prev, event.seq, event.stream, event.sender, event.group) == (9, None, 1, 2, 3, None)


def test_unknown_types_are_passed_over_and_nonsense_is_not() -> None:
    assert wire.decode(b'{"type":"presence","users":[]}') is None
    for bad in (b'{"type":"message"}', b"[]", b"{", b'{"type":"accepted","seq":"x"}'):
        with pytest.raises((msgspec.DecodeError, AttributeError)):
            wire.decode(bad)


# ---------------------------------------------------------------- the open loop


def test_the_pace_does_not_wait_for_anyone() -> None:
    pace = Pace(1_000_000_000, rate=10, duration=1)
    assert pace.take(999_999_999) is None
    assert pace.take(1_000_000_000) == 1_000_000_000
    late = [pace.take(9_000_000_000) for _ in range(9)]  # a stall: all are due at their intended times
    assert late == [1_000_000_000 + n * 100_000_000 for n in range(1, 10)]
    assert pace.take(9_000_000_000) is None
    assert pace.next_due is None


# ---------------------------------------------------------------- accounts


def test_accounts_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "users.json"
    accounts = load_accounts(path)
    accounts.first(3)[1].token = "t"
    accounts.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = load_accounts(path)
    assert again.first(2)[1].token == "t"
    assert len({account.name for account in again.first(5)}) == 5
    assert all(protocol.decode_request(protocol.encode(protocol.Resume(token="t", device=a.device))) for a in again.people)


def test_a_file_that_is_something_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text('{"people": 3}')
    with pytest.raises(SetupError, match="users-file"):
        load_accounts(path)


# ---------------------------------------------------------------- processes, pre-flight


def test_children_count_as_their_parents() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        me, other = Server("nginx", "nginx", os.getpid()), Server("edge", "edge-1", 2**22 + 1)
        found = with_children([me, other])
        assert Server("nginx", "nginx", child) in found
        assert {me, other} <= set(found)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_cpu_and_memory_of_a_process() -> None:
    me = Server("load", "load", os.getpid())
    before = usage([me, Server("edge", "edge-1", 2**22 + 1)])
    assert set(before) == {me}
    assert before[me].resident > 1_000_000
    while (after := usage([me]))[me].cpu == before[me].cpu:
        sum(range(10_000))
    assert cpu_between(before, after)["load"] > 0


def test_the_preflight_says_what_mends_it() -> None:
    found = preflight.ports(100_000, servers=1, sources=0)
    assert not found.ok
    assert "--sources" in found.mend
    assert preflight.ports(10, servers=1, sources=0).ok
    assert not preflight.raise_descriptors(10**9).ok
    assert preflight.nginx_workers([], 10) is None


# ---------------------------------------------------------------- the report


def test_the_report_in_both_forms() -> None:
    report = Report(scenario="direct", began="2026-01-01T00:00:00+00:00", command="", machine={}, connections=3, options={})
    report.delivery = {"count": 2, "mean_ms": 1.5, "p50_ms": 1, "p99_ms": 2, "p999_ms": 2, "max_ms": 2}
    report.counts, report.failed = {"sent": 2, "lost": 1}, ["1 lost"]
    report.cpu = {"edge": {"seconds": 1, "cores": 0.5, "us_a_message": 20.0}}
    assert msgspec.json.decode(report.to_json(), type=Report) == report
    text = as_text(report)
    assert "FAILED: 1 lost" in text
    assert "0.500 cores" in text


# ---------------------------------------------------------------- hops


def test_the_budget_is_the_difference_of_two_looks() -> None:
    metrics = EdgeMetrics()
    looks = []
    for delay in (5.0, 0.002, 0.004):
        metrics.delay.observe(delay)
        found: hops.Sums = {}
        hops.add(generate_latest(metrics.registry).decode(), found)
        looks.append(found)
    assert hops.budget(looks[0], looks[2]) == {"sent to handed to the session": 3.0}
    assert hops.budget(looks[2], looks[0]) == {}  # it was started anew
    assert hops.budget({}, {}) == {}


def test_every_hop_is_a_metric_that_exists() -> None:
    text = "".join(generate_latest(m.registry).decode() for m in (EdgeMetrics(), RouterMetrics(), PersistMetrics()))
    assert all(f"# TYPE {name} histogram" in text for name in hops.HOPS)


def test_a_process_that_does_not_answer_is_left_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert hops.scrape([f"127.0.0.1:{silent.getsockname()[1]}"]) == {}
