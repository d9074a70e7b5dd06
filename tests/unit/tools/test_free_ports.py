from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from chat.errors import SetupError
from chat.tools.free_ports import Ports, is_free


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_not_free(taken: int) -> None:
    assert not is_free(taken)


def test_the_next_free_one_is_taken_and_told(taken: int) -> None:
    told: list[str] = []
    chosen: dict[str, int] = {}
    port = Ports(chosen, 0, told.append).take("kafka", taken)
    assert port > taken
    assert chosen == {"kafka": port}
    assert told == [f"port {taken} is taken: kafka listens on {port}"]


def test_a_choice_is_kept_while_it_is_free_or_ours(taken: int) -> None:
    told: list[str] = []
    assert Ports({"kafka": taken}, 0, told.append).take("kafka", 1, ours=True) == taken
    assert Ports({"kafka": taken}, 0, told.append).take("kafka", 1) > taken


def test_no_port_is_given_twice() -> None:
    ports = Ports({}, 0, lambda note: None)
    assert len({ports.take(name, 23_456) for name in "abcdef"}) == 6


def test_all_are_counted_from_the_first_where_one_is_given() -> None:
    told: list[str] = []
    ports = Ports({}, 24_000, told.append)
    assert 24_000 <= ports.take("kafka", 19_092) < ports.take("edge-1", 7_101) < 25_000
    assert not told


def test_none_left() -> None:
    ports = Ports({str(n): n for n in range(65_000, 65_536)}, 0, lambda note: None)
    with pytest.raises(SetupError, match="no free port for kafka"):
        ports.take("kafka", 65_000)
