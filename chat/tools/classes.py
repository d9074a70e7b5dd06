"""An archive of the classes that Kafka's broker loads, with which it starts with less work (Java's class data sharing). Made
once, at set-up; a Java that it does not fit passes it over.

    python -m chat.tools.classes        makes kafka/classes.jsa
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import trio

from chat.config import UpConfig
from chat.errors import SetupError
from chat.tools import servers
from chat.tools.free_ports import Ports
from chat.tools.parts import write_files
from chat.tools.project import ARCHIVE
from chat.tools.readiness import until

START_S: Final = 120.0
END_S: Final = 60.0
#: Any: the broker's data are thrown away.
CLUSTER: Final = "QUJDREVGR0hJSktMTU5PUA"
FIRST_PORT: Final = 31_900


async def make(into: Path, folder: Path) -> None:
    """Run a broker in `folder` and have it write down, at its end, what it has loaded. Raises SetupError."""
    ports = Ports({}, FIRST_PORT, lambda note: None)
    part = servers.kafka(folder, ports.take("kafka", 0), ports.take("controller", 0), CLUSTER, UpConfig())
    write_files(part)
    assert part.once is not None
    assert part.check is not None
    java, *words = part.command
    new = into.with_suffix(".new")
    new.unlink(missing_ok=True)
    await trio.run_process(part.once.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with (folder / "log").open("wb") as log:
        broker = await trio.lowlevel.open_process(
            [java, f"-XX:ArchiveClassesAtExit={new}", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            with trio.move_on_after(START_S):
                await until(part.check)
            broker.send_signal(signal.SIGTERM)
            with trio.move_on_after(END_S):
                await broker.wait()
        finally:
            broker.kill()
    if not new.is_file() or not new.stat().st_size:
        raise SetupError(f"Java has written no archive:\n{(folder / 'log').read_text()[-2000:]}")
    new.replace(into)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kafka-classes-") as folder:
        try:
            trio.run(make, ARCHIVE, Path(folder))
        except (SetupError, OSError, subprocess.CalledProcessError) as error:
            print(f"kafka: without an archive of its classes, which only makes it start slower: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
