"""The servers' settings, as far as they go by the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.tools import servers


def test_innodbs_pool_by_the_machines_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [servers.pool_mb(mb) for mb in (512, 2_048, 8_192, 65_536)] == [128, 256, 1_024, 2_048]
    whole = servers.memory_mb()
    monkeypatch.setattr(servers, "CONTAINER", tmp_path / "memory.max")
    for said, found in (("max\n", whole), (f"{100 << 20}\n", 100)):
        servers.CONTAINER.write_text(said)
        assert servers.memory_mb() == found
