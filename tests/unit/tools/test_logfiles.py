from __future__ import annotations

from pathlib import Path

from chat.tools.logfiles import cut_large, last_lines


def test_a_large_log_is_cut_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "edge-1.log"
    with path.open("ab") as writer:
        writer.write(b"a line\n" * 1000)
        writer.flush()
        cut_large(tmp_path, 8_000)
        assert path.stat().st_size == 7_000  # not above it yet
        cut_large(tmp_path, 6_999)
        writer.write(b"the next\n")
    assert path.read_bytes() == b"the next\n"
    assert (tmp_path / "edge-1.log.1").stat().st_size == 7_000


def test_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("".join(f"{n}\n" for n in range(10_000)))
    assert last_lines(path, 2) == ["9998", "9999"]
    assert last_lines(tmp_path / "nowhere", 2) == []
