"""The topic of a live edge goes: its clients go on by hints and syncs, and the edge makes it again."""

from __future__ import annotations

import pytest
import trio

from chat.bridge import open_log_admin
from chat.records import Topics
from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE, Scene, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]


async def test_the_topic_of_a_live_edge_is_deleted(harmed: Cluster, bridge: None) -> None:
    config = harmed.config
    topics = Topics(config.kafka.namespace)
    names = [topics.edge(edge) for edge in harmed.names("edge")]

    async def cruel(scene: Scene) -> None:
        async with open_log_admin(config.kafka) as admin:
            before = await admin.topic_ids(names)
            scene.begin()
            await admin.delete_topics(names[:1])
            with trio.fail_after(30 * PATIENCE):
                while (await admin.topic_ids(names)).get(names[0], before[names[0]]) == before[names[0]]:
                    await scene.shown(1)
            scene.has_returned()
            await scene.recovered()

    await play(harmed, "the topic of a live edge deleted", cruel, section="records")
