"""What is done to a cluster, and when: drawn from a seed, so that it can be done again. Pure.

Blows overlap as they fall: a part is killed while another is frozen, while it starts, while it recovers from the last one.
"""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

SERVICES: Final = ("edge-1", "edge-2", "router-1", "router-2", "persist-1", "persist-2")
SERVERS: Final = ("kafka", "redis", "mariadb", "nginx")
ALL: Final = (*SERVICES, *SERVERS)

#: Below, at and above what something waits for: a request of a driver (1 s, Redis), the groups' session (3 s), an edge's
#: lease (4 s), heartbeats (5 s), MySQL's time-out (5 s), the lease and nginx's patience (7 s), a batch (10 s).
FREEZES: Final = (0.3, 0.9, 1.1, 1.9, 2.8, 3.2, 3.8, 4.2, 4.9, 5.3, 6.8, 7.3, 9.0, 10.3, 13.0)
#: Between one blow and the next on the same part: while it ends, starts, joins its group, reads what it has missed.
AGAIN: Final = (0.0, 0.05, 0.2, 0.5, 1.0, 1.5, 2.5, 4.0)


class Blow(NamedTuple):
    """`at`: seconds from the beginning of the storm. `what` says what `parts`, `seconds` and `numbers` mean; see `Storm`."""

    at: float
    what: str
    parts: tuple[str, ...] = ()
    seconds: float = 0.0
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        more = [f"for {self.seconds:g} s"] * (self.seconds > 0) + [str(number) for number in self.numbers]
        return " ".join([f"{self.at:6.2f}", self.what, *self.parts, *more])


def schedule(random: Random, seconds: float, blows: int) -> list[Blow]:
    """About so many blows within so many seconds, sorted."""
    found: list[Blow] = []
    while len(found) < blows:
        at = random.uniform(0, seconds)
        found += random.choices(DRAWS, WEIGHTS)[0](random, at)
    return sorted(blow._replace(at=round(blow.at, 2)) for blow in found)


def _some(random: Random) -> tuple[str, ...]:
    """Services twice as often as servers; seldom many at once."""
    count = random.choice((1, 1, 1, 1, 2, 2, 3, 5))
    return tuple(sorted({random.choice((*SERVICES, *SERVICES, *SERVERS)) for _ in range(count)}))


def _a_kill(random: Random, at: float) -> list[Blow]:
    return [Blow(at, random.choice(("kill", "kill", "kill whole")), _some(random))]


def _kills_in_a_row(random: Random, at: float) -> list[Blow]:
    """The same parts again and again, while they start and recover."""
    parts, found = _some(random), []
    for _ in range(random.choice((2, 2, 3, 4))):
        found.append(Blow(at, "kill", parts))
        at += random.choice(AGAIN)
    return found


def _a_kill_at_its_start(random: Random, at: float) -> list[Blow]:
    """As soon as its successor is there."""
    return [Blow(at, "kill at its start", (random.choice(ALL),), random.choice((0.0, 0.05, 0.3, 0.6, 1.0)))]


def _a_freeze(random: Random, at: float) -> list[Blow]:
    return [Blow(at, "freeze", _some(random), random.choice(FREEZES))]


def _a_freeze_that_is_killed(random: Random, at: float) -> list[Blow]:
    parts, seconds = _some(random), random.choice(FREEZES)
    return [Blow(at, "freeze", parts, seconds), Blow(at + seconds * random.random(), "kill", parts)]


def _a_stop(random: Random, at: float) -> list[Blow]:
    found = [Blow(at, "stop", _some(random))]
    if random.random() < 0.4:  # killed while it drains
        found.append(Blow(at + random.choice(AGAIN), "kill", found[0].parts))
    return found


def _a_restart(random: Random, at: float) -> list[Blow]:
    return [Blow(at, "restart", tuple(random.sample(SERVICES, random.choice((1, 2)))))]


def _a_change_of_size(random: Random, at: float) -> list[Blow]:
    role = random.choice(("edges", "routers", "persists"))
    found = [Blow(at, "scale", (role,), numbers=(random.choice((1, 3, 4)),))]
    return [*found, Blow(at + random.choice((0.2, 1.0, 3.0, 6.0)), "scale", (role,), numbers=(2,))]


def _redis(random: Random, at: float) -> list[Blow]:
    return [Blow(at, random.choice(("Redis emptied", "Redis loses keys", "Redis restarted empty")))]


def _the_front(random: Random, at: float) -> list[Blow]:
    return [Blow(at, "nginx reloaded"), *([Blow(at + random.choice(AGAIN), "kill", ("nginx",))] * random.choice((0, 1)))]


def _the_network(random: Random, at: float) -> list[Blow]:
    what = random.choice(("connections reset", "network stalls", "network breaks"))
    return [Blow(at, what, seconds=0.0 if what == "connections reset" else random.choice((1.0, 4.5, 6.0)))]


def _everything(random: Random, at: float) -> list[Blow]:
    found = [Blow(at, random.choice(("kill", "kill whole")), ALL)]
    if random.random() < 0.5:
        found.append(Blow(at + random.choice((0.3, 1.0, 3.0, 8.0)), "kill", ALL))
    return found


def _the_supervisor(random: Random, at: float) -> list[Blow]:
    """Killed, started again after a while; what falls meanwhile is mended by nobody."""
    return [Blow(at, "supervisor killed", seconds=random.choice((0.0, 1.0, 5.0)))]


DRAWS: Final = (
    _a_kill, _kills_in_a_row, _a_kill_at_its_start, _a_freeze, _a_freeze_that_is_killed, _a_stop, _a_restart,
    _a_change_of_size, _redis, _the_front, _the_network, _everything, _the_supervisor,
)  # fmt: skip
WEIGHTS: Final = (6, 4, 3, 6, 3, 3, 2, 3, 4, 1, 2, 1, 1)
