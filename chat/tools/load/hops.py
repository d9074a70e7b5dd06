"""Where the time goes: the means of the services' own histograms over the traffic, warm-up included, hop by hop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

#: Histogram → the hop, as told; in the order of a message's way. All but the first two count from `sent_at`, and all
#: are of the oldest message of a cycle.
HOPS: Final[Mapping[str, str]] = {
    "chat_edge_accept_seconds": "edge in to accepted",
    "chat_edge_produce_seconds": "of it one produce cycle",
    "chat_router_fetched_seconds": "sent to fetched by the router",
    "chat_router_routed_seconds": "sent to written to the edge's topic",
    "chat_edge_delivery_seconds": "sent to handed to the session",
    "chat_persist_stored_seconds": "sent to stored",
}
_SECONDS: Final = 0.5  # for one process

Sums = dict[str, tuple[float, float]]  # histogram → sum in seconds, count


def scrape(addresses: Sequence[str]) -> Sums:
    """Over all processes; one that does not answer is left out."""
    found: Sums = {}
    for address in addresses:
        with (
            suppress(URLError, TimeoutError, ConnectionError, ValueError),
            urlopen(f"http://{address}/metrics", timeout=_SECONDS) as answer,
        ):
            add(answer.read().decode(), found)
    return found


def add(text: str, found: Sums) -> None:
    """The hops' histograms in Prometheus's text format. Raises ValueError."""
    for family in text_string_to_metric_families(text):
        if family.name not in HOPS:
            continue
        total, count = found.get(family.name, (0.0, 0.0))
        for sample in family.samples:
            if sample.name.endswith("_sum"):
                total += sample.value
            elif sample.name.endswith("_count"):
                count += sample.value
        found[family.name] = total, count


def budget(before: Sums, after: Sums) -> dict[str, float]:
    """hop → mean, milliseconds. A process that began anew meanwhile spoils it: hops that would be negative are left out."""
    means = {}
    for name, hop in HOPS.items():
        total, count = (b - a for a, b in zip(before.get(name, (0, 0)), after.get(name, (0, 0)), strict=True))
        if count > 0 and total >= 0:
            means[hop] = round(total / count * 1000, 3)
    return means
