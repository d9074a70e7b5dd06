from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from chat.errors import SetupError
from chat.tools import sockets


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sockets, "LONGEST", 400)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_each_cluster_has_its_own(temporary: Path) -> None:
    one, other = sockets.socket_folder(Path("/srv/a/.chat")), sockets.socket_folder(Path("/srv/b/.chat"))
    assert one is not None
    assert one.parent == temporary
    assert one != other
    assert one == sockets.socket_folder(Path("/srv/a/.chat"))


def test_made_twice_and_removed_with_what_is_left(temporary: Path) -> None:
    folder = temporary / "chat-x"
    sockets.make(folder)
    sockets.make(folder)
    assert folder.stat().st_mode & 0o777 == 0o711
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(folder / "edge-1.sock"))
    sockets.remove(folder)
    assert not folder.exists()
    sockets.remove(folder)


def test_a_link_is_not_followed(temporary: Path) -> None:
    (temporary / "chat-x").symlink_to(temporary)
    with pytest.raises(SetupError, match="remove it"):
        sockets.make(temporary / "chat-x")


@pytest.mark.parametrize("where", ["a b", "x" * 300])
def test_a_path_that_nginx_or_the_kernel_would_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"/tmp/{where}")
    assert sockets.socket_folder(tmp_path) is None
