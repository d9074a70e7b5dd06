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
        self.accepted = Counter("chat_edge_accepted_total", "Messages that Kafka has acknowledged", registry=r)
        self.accept = Histogram(
            "chat_edge_accept_seconds",
            "From the intake of a cycle's oldest message to accepted",
            buckets=LATENCIES,
            registry=r,
        )
        self.cycle = Histogram("chat_edge_produce_seconds", "A produce cycle", buckets=LATENCIES, registry=r)
        self.cycle_records = Histogram("chat_edge_produce_records", "Records of a produce cycle", buckets=SIZES, registry=r)
        self.failed_cycles = Counter(
            "chat_edge_produce_failures_total", "Produce cycles with an unknown outcome", registry=r
        )
        self.queue = Gauge("chat_edge_publish_queue_bytes", "Bytes waiting for Kafka or under way", registry=r)
        self.deliveries = Counter("chat_edge_deliveries_total", "Deliveries read from the edge's topic", registry=r)
        self.fanned_out = Counter("chat_edge_delivered_frames_total", "Delivery frames written to sessions", registry=r)
        self.delay = Histogram(
            "chat_edge_delivery_seconds",
            "From sent_at to the session's outbox, oldest of a batch",
            buckets=LATENCIES,
            registry=r,
        )
        self.resyncs = Counter("chat_edge_resyncs_total", "Resync hints sent", ["why"], registry=r)
        self.lease_losses = Counter("chat_edge_lease_losses_total", "Registrations written anew", ["why"], registry=r)
        self.unregistered = Gauge("chat_edge_registrations_pending", "Locations and groups not yet written", registry=r)
        self.acks = Counter("chat_edge_acks_total", "Acknowledgements from devices", registry=r)


class RouterMetrics:
    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.records = Counter("chat_router_records_total", "Records read, without those of a warm-up", registry=r)
        self.deliveries = Counter("chat_router_deliveries_total", "Deliveries that Kafka has acknowledged", registry=r)
        self.offline = Counter("chat_router_offline_total", "Records that no edge was to get", registry=r)
        self.unroutable = Counter("chat_router_unroutable_total", "Records that are no messages", registry=r)
        self.dead_locations = Counter(
            "chat_router_dead_locations_total", "Locations of incarnations without lease", registry=r
        )
        self.refused = Counter("chat_router_refused_total", "Deliveries that Kafka refuses for good, dropped", registry=r)
        self.given_up = Gauge("chat_router_given_up_topics", "Edges' topics that cannot be written to now", registry=r)
        self.passed_over = Counter(
            "chat_router_passed_over_total", "Deliveries to topics that are given up; their edges are told", registry=r
        )
        self.failures = Counter("chat_router_failures_total", "Cycles given up and read again", ["part"], registry=r)
        self.broadcasting = Gauge("chat_router_broadcasting", "1 while Redis is away and all edges get all", registry=r)
        self.partitions = Gauge("chat_router_partitions", "Partitions owned", registry=r)
        self.lag = Gauge("chat_router_lag_records", "Records between what was read and the end", registry=r)
        self.cycle = Histogram("chat_router_cycle_seconds", "From fetched to acknowledged", buckets=LATENCIES, registry=r)
        self.cycle_records = Histogram("chat_router_cycle_records", "Records of a cycle", buckets=SIZES, registry=r)
        self.lookup = Histogram("chat_router_lookup_seconds", "A look-up in Redis", buckets=LATENCIES, registry=r)
        self.fetched = Histogram(
            "chat_router_fetched_seconds", "From sent_at to fetched, oldest of a cycle", buckets=LATENCIES, registry=r
        )
        self.routed = Histogram(
            "chat_router_routed_seconds",
            "From sent_at to the edge's topic, oldest of a cycle",
            buckets=LATENCIES,
            registry=r,
        )


class PersistMetrics:
    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.records = Counter("chat_persist_records_total", "Records whose offset was committed", ["topic"], registry=r)
        self.rows = Counter("chat_persist_rows_total", "Rows stored", registry=r)
        self.duplicates = Counter(
            "chat_persist_duplicates_total", "Records dropped, since they were stored before", registry=r
        )
        self.holes = Counter("chat_persist_holes_total", "Records above the next seq of their stream", registry=r)
        self.dead = Counter("chat_persist_dead_total", "Records put into the topic of the dead", registry=r)
        self.conflicts = Counter(
            "chat_persist_conflicts_total", "Batches rolled back: another owns the partition", registry=r
        )
        self.failures = Counter("chat_persist_failures_total", "Cycles given up and read again", ["part"], registry=r)
        self.partitions = Gauge("chat_persist_partitions", "Partitions owned", registry=r)
        self.lag = Gauge("chat_persist_lag_records", "Records between what was read and the end", registry=r)
        self.streams = Gauge("chat_persist_streams", "Stream heads in memory", registry=r)
        self.transaction = Histogram(
            "chat_persist_transaction_seconds", "From fetched to committed", buckets=LATENCIES, registry=r
        )
        self.transaction_records = Histogram(
            "chat_persist_transaction_records", "Records at once", buckets=SIZES, registry=r
        )
        self.stored = Histogram(
            "chat_persist_stored_seconds", "From sent_at to committed, oldest of a batch", buckets=LATENCIES, registry=r
        )
        self.trimmed = Counter(
            "chat_persist_trimmed_records_total", "Records deleted from the log, being stored", registry=r
        )


class ArchiveMetrics:
    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.rows = Counter("chat_archive_rows_total", "Rows moved out of the database into files", registry=r)
        self.bytes = Counter("chat_archive_written_bytes_total", "Bytes of files written", registry=r)
        self.slices = Counter("chat_archive_slices_total", "Slices that came about", registry=r)
        self.again = Counter("chat_archive_slices_again_total", "Slices made again, since rows came meanwhile", registry=r)
        self.expired = Counter("chat_archive_expired_rows_total", "Rows deleted for their age", registry=r)
        self.removed = Counter("chat_archive_removed_files_total", "Files removed", registry=r)
        self.failures = Counter("chat_archive_failures_total", "Looks given up, to be begun again", ["part"], registry=r)
        self.slice = Histogram(
            "chat_archive_slice_seconds", "From a slice's first read to its commit", buckets=LATENCIES, registry=r
        )
        self.running = Gauge("chat_archive_running", "1 while rows are moved", registry=r)
        self.ran = Gauge("chat_archive_last_run_timestamp_seconds", "When the last run has ended", registry=r)
