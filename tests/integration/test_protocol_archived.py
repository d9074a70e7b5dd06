"""Archived messages over the wire: nobody sees where a message lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.bridge import open_database
from tests.harness.archived import archive_rows, keys_of
from tests.harness.cluster import Cluster
from tests.integration.raw import Frame, World, new_stream, until

pytestmark = pytest.mark.servers


def seqs(frames: list[Frame]) -> list[int]:
    return [frame["seq"] for frame in frames]


async def test_archived_messages_are_read_like_others(world: World, cluster: Cluster, bridge: None) -> None:
    ann, bob = await world.person("ann"), await world.person("bob", "there")
    stream, timeline = new_stream(), f"u{bob.user}"
    for seq in range(20):
        await ann.say(f"word {seq} 天气", to=bob.user, stream=stream, seq=seq)

    async def stored() -> bool:
        return len((await bob.done("history", to=ann.user))["messages"]) == 20

    await until(stored)
    before, _ = await bob.synced(timeline, 0)
    folder = Path(cluster.config.archive.url or cluster.folder / "archive")
    async with open_database(cluster.config.mysql) as database:
        keys = await keys_of(database, "timeline = %s", timeline)
        texts = await keys_of(database, "timeline = %s AND kind = 'text'", timeline)
        await archive_rows(database, folder, keys[: keys.index(texts[12])])

    page = await bob.done("history", to=ann.user, limit=15)  # it spans the border
    assert seqs(page["messages"]) == list(range(19, 4, -1))
    rest = await bob.done("history", to=ann.user, before=page["next"])
    assert (seqs(rest["messages"]), rest["next"]) == ([4, 3, 2, 1, 0], None)
    assert (await bob.synced(timeline, 0))[0] == before
    found = await bob.done("search", text="天气", limit=500)
    assert (seqs(found["messages"]), found["next"]) == (list(range(19, -1, -1)), None)
    assert seqs((await bob.done("search", text="WORD 3 ", to=ann.user))["messages"]) == [3]
    fetched = await bob.done("fetch", from_=ann.user, to=bob.user, stream=stream, seqs=[2, 15, 20])
    assert (seqs(fetched["messages"]), fetched["void"], fetched["pending"]) == ([2, 15], [20], [])
    (listed,) = (await bob.done("conversations"))["conversations"]
    assert (listed["unread"], listed["last"]["seq"]) == (20, 19)
