"""What a check is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    servers: Sequence[str]  # host:port, tried in turn; nginx, or edges
    users: int = 6
    groups: int = 2
    group_size: int = 4  # members of each
    devices: int = 2  # of each user
    partners: int = 3  # users that each writes to
    group_share: float = 0.3  # of the messages go to groups
    rate: float = 20.0  # messages a second, all devices together
    duration: float = 20.0  # seconds of traffic
    size: int = 60  # characters of text
    churn: bool = False  # devices come and go, some without a word; new ones appear
    steady: int = 0  # with churn: the devices of so many users stay nevertheless
    settle: float = 60.0  # seconds in which everything has to be there after the traffic
    setup: float = 60.0  # seconds in which users and groups have to be there before
    seed: int = 1
