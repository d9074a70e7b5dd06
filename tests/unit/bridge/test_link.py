from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio

from chat.bridge.link import Link


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Link, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    link = Link(ours)
    yield link, theirs
    link.close()
    theirs.close()


async def test_more_than_the_socket_takes_at_once(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    data = bytes(range(256)) * 20_000
    got = bytearray()

    async def read() -> None:
        while len(got) < len(data):
            await trio.lowlevel.wait_readable(theirs)
            got.extend(theirs.recv(1 << 20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await link.send(data)
    assert bytes(got) == data


async def test_a_cancelled_receive_loses_nothing(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    with trio.move_on_after(0.01):
        await link.receive(10)
    theirs.send(b"hello")
    assert await link.receive(3) == b"hel"
    assert await link.receive(3) == b"lo"


async def test_the_other_side_closes(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    assert not link.stale()
    theirs.send(b"x")
    assert link.stale()  # nobody asked for it
    assert await link.receive(1) == b"x"
    assert not link.stale()
    theirs.close()
    assert link.stale()
    with pytest.raises(ConnectionResetError):
        await link.receive(1)
    with pytest.raises(OSError, match="Broken pipe"):
        await link.send(b"x")


async def test_closing_wakes_the_reader(pair: tuple[Link, socket.socket]) -> None:
    link, _ = pair
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await link.receive(1)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        link.close()
        link.close()
    with pytest.raises(trio.ClosedResourceError):
        await link.send(b"x")
    assert link.stale()
