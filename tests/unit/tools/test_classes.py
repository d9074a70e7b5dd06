"""The archive of Kafka's classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.tools import servers


def test_kafka_starts_from_the_archive_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "classes.jsa"
    monkeypatch.setattr(servers, "ARCHIVE", archive)
    assert servers.shared_classes() == ()
    archive.touch()
    assert f"-XX:SharedArchiveFile={archive}" in servers.shared_classes()
    assert "-Xshare:auto" in servers.shared_classes()  # one that does not fit is passed over
