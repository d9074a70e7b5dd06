"""examples/jmeter: what the plan writes are frames of the protocol."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from chat.protocol import Ack, GoodbyeFrame, Heartbeat, Hello, Resume, Send, decode_request

FOLDER = Path(__file__).parents[2] / "examples" / "jmeter"
PLAN = ElementTree.parse(FOLDER / "chat.jmx").getroot()
ACCOUNTS = [
    {"name": f"load-x-{user}", "device": f"load-device-{user}", "user": user, "token": f"token-{user}"} for user in (5, 6)
]


def load_frames() -> ModuleType:
    spec = importlib.util.spec_from_file_location("frames", FOLDER / "frames.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


frames = load_frames()


def samplers() -> dict[str, str]:
    """name → what it writes, in hexadecimal, in the order of the plan."""
    return {s.attrib["testname"]: said(s, "TCPSampler.request") for s in PLAN.iter("TCPSampler")}


def said(element: ElementTree.Element, name: str) -> str:
    return next(child.text or "" for child in element if child.attrib["name"] == name)


def columns(name: str) -> list[str]:
    (found,) = [s for s in PLAN.iter("CSVDataSet") if said(s, "filename").endswith(name)]
    return said(found, "variableNames").split(",")


def filled(request: str, **values: str) -> bytes:
    return bytes.fromhex(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], request))


@pytest.mark.parametrize("seq", [0, 9, 10, 599])
def test_every_payload_is_a_frame(seq: int) -> None:
    assert columns("seqs.csv") == ["seq"]
    for account, line in zip(ACCOUNTS, frames.user_lines(ACCOUNTS, 77), strict=True):
        values = dict(zip(columns("users.csv"), line.split(","), strict=True)) | {"seq": frames.hexadecimal(str(seq))}
        requests: dict[str, Any] = {
            name: decode_request(filled(request, **values)) for name, request in samplers().items()
        }  # fmt: skip
        assert {name: type(request) for name, request in requests.items()} == {
            "hello": Hello, "resume": Resume, "heartbeat": Heartbeat, "send": Send, "send-2": Ack, "goodbye": type(bye()),
        }  # fmt: skip
        assert requests["hello"].version == 1
        assert (requests["resume"].token, requests["resume"].device) == (account["token"], account["device"])
        send = requests["send"]
        assert (send.to, send.stream, send.seq, len(send.text)) == (account["user"], 77, seq, 100)
        assert (requests["send-2"].timeline, requests["send-2"].pos) == (f"u{account['user']}", 1)


def bye() -> object:
    return decode_request(b'{"type":"goodbye"}')


def test_what_answers_must_have_in_them_are_parts_of_frames() -> None:
    parts = [
        bytes.fromhex(value.text or "").decode()
        for strings in PLAN.iter("collectionProp") if strings.attrib["name"] == "Asserion.test_strings"
        for value in strings
    ]  # fmt: skip
    assert '"type":"logged_in"' in parts
    assert '"code":1000' in parts
    assert all(json.loads("{" + part + "}") for part in parts)
    assert GoodbyeFrame(code=1000, reason="").code == 1000


def test_the_sampler_is_the_length_prefixed_one_and_the_defaults_are_the_clusters() -> None:
    (way,) = [e for e in PLAN.iter("ConfigTestElement") if e.attrib["testname"] == "the way in"]
    assert said(way, "TCPSampler.classname") == "LengthPrefixedBinaryTCPClientImpl"
    assert said(way, "TCPSampler.port") == "${__P(port,7000)}"
    assert "-Jtcp.binarylength.prefix.length=4" in (FOLDER / "README.md").read_text()


def test_the_files_are_written_for_their_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = tmp_path / "load-users.json"
    users.write_text(json.dumps({"people": ACCOUNTS}))
    monkeypatch.setattr(sys, "argv", ["frames.py", "--users-file", str(users), "--users", "2", "--messages", "11",
                                      "--folder", str(tmp_path)])  # fmt: skip
    frames.main()
    assert len((tmp_path / "users.csv").read_text().splitlines()) == 2
    assert (tmp_path / "users.csv").stat().st_mode & 0o777 == 0o600
    assert [bytes.fromhex(line) for line in (tmp_path / "seqs.csv").read_text().split()] == [b"%d" % n for n in range(11)]
    monkeypatch.setattr(sys, "argv", [*sys.argv[:4], "3"])
    with pytest.raises(SystemExit, match="chat load prepare"):
        frames.main()
    with pytest.raises(SystemExit, match="no token"):
        frames.user_lines([ACCOUNTS[0] | {"token": ""}], 1)
