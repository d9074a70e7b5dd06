"""A loop for fsspec's remote stores (s3fs …), which are asyncio inside.

fsspec runs them on a thread of its own, with a loop from `asyncio.new_event_loop()`. trio-asyncio has replaced that
function: what it gives is no loop for such a thread, and within trio nothing at all. So the thread and a plain loop are put
in place before fsspec looks for them.
"""

from __future__ import annotations

import asyncio
import threading

from fsspec import asyn


def prepare_stores() -> None:
    """Once or often, from any thread, before the first remote store is opened."""
    with asyn.get_lock():
        if asyn.loop[0] is not None:
            return
        loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=loop.run_forever, name="fsspecIO", daemon=True)
        thread.start()
        asyn.loop[0], asyn.iothread[0] = loop, thread
