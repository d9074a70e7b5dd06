from __future__ import annotations

import socket
from pathlib import Path

import pytest

from chat.edge.listening import listening
from chat.errors import SetupError


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(path))
    return client


def test_tcp() -> None:
    with listening("127.0.0.1:0") as sock, socket.create_connection(sock.getsockname()):
        taken, peer = sock.accept()
        taken.close()
        assert peer[0] == "127.0.0.1"


def test_unix(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with listening(f"unix:{path}") as sock, connect(path):
        taken, peer = sock.accept()
        taken.close()
        assert not peer
    assert not path.exists()


def test_what_a_killed_edge_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()
    with listening(f"unix:{path}"), connect(path):
        pass


def test_nobody_is_pushed_aside(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'edge.sock'}"
    with listening(address):
        with pytest.raises(SetupError, match="another process listens"), listening(address):
            pass
        with connect(tmp_path / "edge.sock"):
            pass


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    path.write_text("mine")
    with pytest.raises(SetupError, match="not a socket"), listening(f"unix:{path}"):
        pass
    assert path.read_text() == "mine"


def test_the_next_run_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with listening(f"unix:{path}") as old:
        old.close()
        with listening(f"unix:{path}"):
            pass
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as next_run:
            next_run.bind(str(path))
    assert path.exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot listen"), listening(f"unix:{tmp_path}/none/edge.sock"):
        pass
