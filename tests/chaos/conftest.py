"""One cluster for all scenes, two of each service; each scene begins when it is whole again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator

import pytest

from tests.harness.cluster import Cluster, run_cluster
from tests.harness.scene import FOLDER


@pytest.fixture(scope="session")
def harmed_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {"up.edges": 2, "up.routers": 2, "up.persists": 2}
    with run_cluster(tmp_path_factory.mktemp("chaos") / ".chat", settings) as found:
        yield found
        shutil.rmtree(FOLDER / "logs", ignore_errors=True)
        shutil.copytree(found.state.logs, FOLDER / "logs")  # to find out why, when the folder of the tests is gone


@pytest.fixture
async def harmed(harmed_cluster: Cluster) -> Cluster:
    """Whole, whatever the scene before did to it."""
    harmed_cluster.hit("supervisor", signal.SIGCONT)
    if not harmed_cluster.state.is_held():
        await harmed_cluster.up_again()
    for entry in harmed_cluster.processes.processes:
        harmed_cluster.hit(entry.name, signal.SIGCONT)
    await harmed_cluster.until(lambda: harmed_cluster.processes.ready, 90)
    return harmed_cluster
