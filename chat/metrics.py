"""All metrics, one class per role: `chat_<role>_<noun>_<unit>`. Labels come from enums and type names, never from users.

A role's object owns its registry, so that several roles (or tests) in one process do not meet.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Seconds; from a fast cycle to a produce that times out.
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0)
#: How many are handled at once.
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


class EdgeMetrics:
    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.connections = Gauge("chat_edge_connections", "Client connections", registry=r)
        self.sessions = Gauge("chat_edge_sessions", "Sessions that are logged in", registry=r)
        self.opened = Counter("chat_edge_connections_opened_total", "Connections accepted", registry=r)
        self.closed = Counter("chat_edge_connections_closed_total", "Connections closed", ["code"], registry=r)
        self.heartbeats = Counter("chat_edge_heartbeats_total", "Heartbeats answered", registry=r)
        self.received = Counter("chat_edge_received_bytes_total", "Bytes read from clients", registry=r)
        self.sent = Counter("chat_edge_sent_bytes_total", "Bytes written to clients", registry=r)
        self.turns = Counter("chat_edge_turns_total", "Turns of the reactor", registry=r)
        self.tasks = Gauge("chat_edge_request_tasks", "Slow requests under way", registry=r)
        self.requests = Histogram(
            "chat_edge_request_seconds", "From the frame to its answer", ["type"], buckets=LATENCIES, registry=r
        )
        self.errors = Counter("chat_edge_errors_total", "Requests refused", ["code"], registry=r)
        self.messages = Counter("chat_edge_messages_total", "Messages taken from clients", registry=r)
        self.accepted = Counter("chat_edge_accepted_total", "Messages that Kafka has acknowledged", registry=r)
        self.accept = Histogram(
            "chat_edge_accept_seconds", "From the intake of a cycle's oldest message to accepted", buckets=LATENCIES, registry=r
        )
        self.cycle = Histogram("chat_edge_produce_seconds", "A produce cycle", buckets=LATENCIES, registry=r)
        self.cycle_records = Histogram("chat_edge_produce_records", "Records of a produce cycle", buckets=SIZES, registry=r)
        self.failed_cycles = Counter("chat_edge_produce_failures_total", "Produce cycles with an unknown outcome", registry=r)
        self.queue = Gauge("chat_edge_publish_queue_bytes", "Bytes waiting for Kafka or under way", registry=r)
        self.deliveries = Counter("chat_edge_deliveries_total", "Deliveries read from the edge's topic", registry=r)
        self.fanned_out = Counter("chat_edge_delivered_frames_total", "Delivery frames written to sessions", registry=r)
        self.delay = Histogram(
            "chat_edge_delivery_seconds", "From sent_at to the session's outbox, oldest of a batch", buckets=LATENCIES, registry=r
        )
        self.resyncs = Counter("chat_edge_resyncs_total", "Resync hints sent", ["why"], registry=r)
        self.lease_losses = Counter("chat_edge_lease_losses_total", "Registrations written anew", ["why"], registry=r)
        self.unregistered = Gauge("chat_edge_registrations_pending", "Locations and groups not yet written", registry=r)
        self.acks = Counter("chat_edge_acks_total", "Acknowledgements from devices", registry=r)
