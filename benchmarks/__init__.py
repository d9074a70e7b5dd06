"""What one message costs at each step of its way, in µs of CPU: `make bench-micro`, or

    python -m benchmarks [--json] [--repetitions N] [NAME]…

    edge      frames in, frames out: the real edge on the tests' fakes of Kafka, Redis and MySQL, with real sockets
    publish   records to Kafka: the batch's bytes; the publisher's cycle; against a broker, where one is given
    router    records to batches of deliveries
    persist   records to SQL
    ordering  the edge's window, the client's chain and sequence

Each case is run several times, and the median is told (CPU time of this process, so that a busy machine disturbs it less;
its caches it still disturbs). Compare with the figures of the same machine before a change, not with another machine's.
"""
