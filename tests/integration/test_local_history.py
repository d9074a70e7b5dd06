"""A device with a local history on a real cluster: killed between a message and its acknowledgement, and at a terminal."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.integration.test_client import PASSWORD, Device, Talk, running, unique

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]


def keeper(cluster: Cluster, name: str, folder: Path, point: str, times: int) -> list[str]:
    return [sys.executable, "-m", "tests.harness.keeper", cluster.front, name, str(folder), point, str(times)]


async def test_killed_between_a_message_and_its_acknowledgement(cluster: Cluster, tmp_path: Path):
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    alice, name = Device(cluster.front, unique("alice")), unique("bob")
    sent: list[str] = []
    async with running(alice):

        async def say(to: str, count: int) -> None:
            for _ in range(count):
                sent.append(f"{len(sent)}")
                alice.client.send_text(to, sent[-1])
            await alice.until(lambda: not len(alice.client.sending))

        first = await trio.run_process(keeper(cluster, name, tmp_path, "never", 0), cwd=ROOT, capture_stdout=True)
        assert b'"texts": []' in first.stdout
        to = f"u{await alice.client.find_user(name)}"
        for point in ("torn", "written", "indexed", "recorded"):
            await say(to, 5)  # before it is there, and while it is
            command = keeper(cluster, name, tmp_path, point, chance.randint(1, 3))
            process = await trio.lowlevel.open_process(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            with trio.fail_after(60):
                while process.poll() is None:
                    await say(to, chance.randint(1, 5))
            assert process.returncode == -signal.SIGKILL, point
        command = keeper(cluster, name, tmp_path, "never", len(sent))
        with trio.fail_after(60):
            last = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
        found = json.loads(last.stdout.splitlines()[-1])
    assert found["texts"] == sent, "nothing lost, nothing doubled, in order"
    assert all("cut off" in said for said in found["said"])


def in_a_pipe(cluster: Cluster, folder: Path) -> None:
    alice, bob = unique("alice"), unique("bob")
    assert Talk(cluster, folder / "b", bob, "--register").end() == (0, [])
    first = Talk(cluster, folder / "a", alice, "--register", "--to", bob)
    first.type("hello 中文", "/find 中文")
    assert first.end()[0] == 0
    second = Talk(cluster, folder / "b", bob, "--to", alice)
    second.see("hello 中文")
    second.type("/find 中文")
    assert second.see("中文")[-1].endswith(f"{alice}: hello 中文")
    assert second.end()[0] == 0
    files = [path.relative_to(folder / "b").parts[1:] for path in (folder / "b").rglob("*.chat")]
    assert [(history, conversation[0]) for history, conversation, _ in files] == [(f"{bob}.history", "u")]
    contents = b"".join(path.read_bytes() for path in (folder / "b").rglob("*") if path.is_file())
    assert "中文".encode() not in contents

    command = [sys.executable, "-m", "chat", "talk", bob, "--server", cluster.front, "--state", str(folder / "b")]
    for password, more, code, said in (
        ("another one", [], 2, "does not open the local history"),
        ("another one", ["--no-history"], 0, ""),
        (PASSWORD, [], 0, ""),
    ):
        environment = {**os.environ, "CHAT_PASSWORD": password}
        done = subprocess.run(
            [*command, *more], input="", capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    environment = {name: value for name, value in os.environ.items() if name != "CHAT_PASSWORD"}
    done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0
    assert "the local history stays closed" in done.stderr


async def test_talk_keeps_what_is_said_sealed(cluster: Cluster, tmp_path: Path):
    with trio.fail_after(120):
        await trio.to_thread.run_sync(in_a_pipe, cluster, tmp_path)
