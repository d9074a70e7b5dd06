"""Settings: one frozen section per part. Flag over environment over file over default.

A section is a frozen Struct; a constructor takes its section, never the whole. `CHAT_EDGE_HEARTBEAT_MS=2000` in the
environment is `[edge] heartbeat_ms = 2000` in the file (TOML, `--config` or `CHAT_CONFIG`). Durations carry their unit.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class KafkaConfig(Struct, frozen=True, kw_only=True):
    bootstrap: str = "127.0.0.1:9092"  # comma-separated host:port
    namespace: str = "chat"  # before every topic's name; also the consumer groups'
    replication: int = 1  # of topics that this project creates by itself (chat.edge.*)
    produce_timeout_ms: int = 10_000  # a batch not acknowledged by then has an unknown outcome
    request_timeout_ms: int = 10_000
    session_timeout_ms: int = 3_000  # consumer groups: a dead member is found after this
    heartbeat_interval_ms: int = 500
    max_batch_bytes: int = 900_000  # below the topic's max.message.bytes
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"  # all but none and gzip need cramjam


class RedisConfig(Struct, frozen=True, kw_only=True):
    url: str = "redis://127.0.0.1:6379/0"
    prefix: str = ""  # before every key
    timeout_ms: int = 1_000
    connections: int = 4


class MysqlConfig(Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 3306
    user: str = "chat"
    password: str = ""
    database: str = "chat"
    timeout_ms: int = 5_000  # for one crossing: connect, all statements
    connections: int = 12  # what the edge's lanes add up to, and one to spare


class EdgeConfig(Struct, frozen=True, kw_only=True):
    name: str = "edge-1"
    listen: str = "127.0.0.1:7100"  # clients, directly
    listen_proxy: str = "127.0.0.1:7200"  # clients through nginx, or unix:/path: PROXY protocol v1 or v2 is required here
    announce: str = ""  # host:port of listen_proxy as nginx reaches it; empty: listen_proxy
    weight: int = 1  # in nginx's upstream
    metrics: str = ""  # host:port for /metrics, /healthz, /readyz; empty: none
    heartbeat_ms: int = 1_000
    heartbeat_misses: int = 5
    max_frame: int = 65_536
    max_connections: int = 19_000
    login_deadline_ms: int = 10_000
    bad_before_login: int = 8  # bad requests before log-in, then closed
    login_tries: int = 5  # bad credentials on one connection, then closed
    login_tries_per_minute: int = 60  # per address
    connections_per_address: int = 200  # loopback is exempt unless limit_loopback
    limit_loopback: bool = False
    messages_per_second: float = 200.0  # token bucket per user, and per connection
    messages_burst: int = 2_000
    requests_per_second: float = 100.0  # other requests, per connection
    requests_burst: int = 500
    outbox_bytes: int = 4 << 20  # per connection; above: goodbye 2003
    outboxes_bytes: int = 512 << 20  # of all connections; above: those with the most get goodbye 2003
    publish_queue_bytes: int = 32 << 20  # of all connections; above: sends are refused `unavailable`
    linger_ms: float = 0.5  # while busy, a produce cycle does not start sooner than this after the one before …
    linger_most_ms: float = 15.0  # … and the busier the machine, the later
    receipts_ms: int = 200  # acknowledgements are coalesced over this, for `delivered`
    cursors_ms: int = 1_000  # a session's cursors are written no sooner than this after the last time
    lease_ms: int = 4_000
    sweep_s: int = 60  # every session's location is asserted again over this time
    sync_wait_ms: int = 2_000  # how long a sync waits for persist
    drain_s: float = 10.0
    hashers: int = 2  # argon2 computations at a time
    token_days: int = 30
    seen_ahead_ms: int = 5_000  # a client's `seen` may be this far ahead of the wall clock
    too_old_messages: int = 20_000  # a device further behind starts from the heads
    stream_days: int = 30  # a stream not written for longer is left out of the heads and refused
    streams_per_hour: int = 600  # that a user may begin: one is a run of a client, not a message
    sessions_per_user: int = 64  # at this edge; a further device is sent away with goodbye 3000
    strangers: bool = True  # may those who are not friends write to each other


class RouterConfig(Struct, frozen=True, kw_only=True):
    name: str = "router-1"
    instance: str = ""  # a name that no other router has: one that is killed and restarted has its partitions at once
    metrics: str = ""
    max_records: int = 2_000  # a cycle
    linger_ms: float = 0.5  # as for an edge
    linger_most_ms: float = 15.0
    commit_ms: int = 500
    deliver_ms: int = 3_000  # an edge's topic that has not taken a batch by then is given up for a while
    warm_records: int = 25_000  # read before the commit, per partition, to know `prev` again
    prev_entries: int = 500_000  # bounded memory of `prev`


class PersistConfig(Struct, frozen=True, kw_only=True):
    name: str = "persist-1"
    instance: str = ""  # a name that no other persist has: one that is killed and restarted has its partitions at once
    metrics: str = ""
    max_records: int = 2_000  # a transaction
    linger_ms: float = 20.0  # as for an edge, but nobody waits for persist except a sync
    linger_most_ms: float = 250.0
    commit_ms: int = 2_000  # to Kafka, for the lag that tools show; the truth is in MySQL
    stream_entries: int = 500_000  # bounded memory of stream heads
    retain_days: float = 7.0  # stored messages stay in Kafka's log for so long; 0: for ever
    janitor_s: float = 60.0  # between two looks of the janitor: the log is trimmed, topics of dead edges are removed
    edge_topic_hours: float = 6.0  # the topic of an edge whose lease is gone for longer is removed; 0: never


class ArchiveConfig(Struct, frozen=True, kw_only=True):
    """Where old messages go, and when. Edges read it too: `url` must be reachable by every edge and by the archiver."""

    name: str = "archiver"
    metrics: str = ""
    url: str = ""  # a folder, or an address that fsspec knows (s3://bucket/prefix); empty: nothing is archived
    age_days: float = 90.0  # messages older than this are moved
    max_rows: int = 9_000_000  # above so many hot rows the oldest are moved too, however young …
    keep_rows: int = 7_000_000  # … until so many are left
    slice_rows: int = 50_000  # of one file, one transaction
    retention_days: float = 0.0  # older messages are deleted for good, hot and cold; 0: never
    every_s: float = 3_600.0  # between two looks of a running archiver
    run_hours: float = 24.0  # it moves messages for their age at most so often: fewer and longer stretches to read later
    grace_s: float = 600.0  # a file that nothing refers to any more is removed after this: an edge may be reading it
    cache_mb: int = 64  # an edge's memory of what it has read of files


class NginxConfig(Struct, frozen=True, kw_only=True):
    listen: str = "127.0.0.1:7000"  # the front: where clients connect
    balance: Literal["least_conn", "round_robin", "hash", "consistent_hash"] = "least_conn"  # hash: of the client's address
    clients: int = 12_000  # connections to be held; descriptors are made to fit
    workers: int = 2
    idle_s: int = 300  # a client that is silent both ways for longer is cut: far above the heartbeat
    connect_ms: int = 1_000  # to an edge; then the next one is tried
    fail_s: int = 1  # an edge that refused is passed over for this long
    lost_ms: int = 1_500  # an edge whose lease is gone for longer is taken out (a restarted one is back before it lapses)
    settle_ms: int = 300  # changes are gathered over this before a reload
    drain_s: int = 86_400  # old workers keep their connections this long after a reload
    module: str = ""  # path of ngx_stream_module.so; empty: looked for; "built-in": there is none to load


class UpConfig(Struct, frozen=True, kw_only=True):
    edges: int = 2
    routers: int = 1
    persists: int = 1
    parts: str = "kafka,redis,mariadb,nginx"  # servers to run; those left out are yours, by [kafka], [redis], [mysql]
    first_port: int = 0  # 0: the well-known high ports; otherwise all ports are taken from here upwards
    kafka_heap_mb: int = 512
    mysql_pool_mb: int = 0  # InnoDB buffer pool; 0: an eighth of the machine's memory, from 128 to 2,048
    nice: int = 10  # of persist and the archiver: nobody on line waits for them; 0: as all others
    log_mb: int = 16  # a process's log is cut above this, one old file is kept
    start_s: int = 120  # `chat up` waits this long for everything to be ready


class Config(Struct, frozen=True, kw_only=True):
    kafka: KafkaConfig = KafkaConfig()
    redis: RedisConfig = RedisConfig()
    mysql: MysqlConfig = MysqlConfig()
    edge: EdgeConfig = EdgeConfig()
    router: RouterConfig = RouterConfig()
    persist: PersistConfig = PersistConfig()
    archive: ArchiveConfig = ArchiveConfig()
    nginx: NginxConfig = NginxConfig()
    up: UpConfig = UpConfig()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
