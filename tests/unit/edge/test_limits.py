from chat.edge.limits import AddressTable, Counts, TokenBucket, is_loopback


def test_a_bucket_begins_full_and_refills() -> None:
    bucket = TokenBucket(0.0, 2)
    assert bucket.take(0.0, 1.0, 2) == 0
    assert bucket.take(0.0, 1.0, 2) == 0
    assert bucket.take(0.0, 1.0, 2) == 1.0
    assert bucket.take(0.5, 1.0, 2) == 0.5
    assert bucket.take(1.0, 1.0, 2) == 0


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    bucket = TokenBucket(0.0, 3)
    assert [bucket.take(1_000.0, 1.0, 3) for _ in range(4)] == [0, 0, 0, 1.0]


def test_waiting_takes_nothing() -> None:
    bucket = TokenBucket(0.0, 1)
    assert bucket.wait(0.0, 1.0, 1) == 0
    assert bucket.take(0.0, 1.0, 1) == 0
    assert bucket.wait(0.25, 1.0, 1) == 0.75
    assert bucket.take(1.0, 1.0, 1) == 0


def test_an_address_has_so_many_tries_a_minute() -> None:
    table = AddressTable(2)
    assert table.wait("a", 0.0) == 0
    table.count("a", 0.0)
    table.count("a", 0.0)
    assert table.wait("a", 0.0) == 30.0
    assert table.wait("b", 0.0) == 0
    assert table.wait("a", 30.0) == 0


def test_the_table_of_addresses_is_bounded_and_forgets_the_oldest() -> None:
    table = AddressTable(1, entries=2)
    for address in "abc":
        table.count(address, 0.0)
    assert len(table) == 2
    assert table.wait("a", 0.0) == 0
    assert table.wait("b", 0.0) > 0


def test_counts_keep_nothing_of_those_without() -> None:
    counts = Counts()
    assert [counts.add("a"), counts.add("a"), counts.add("b")] == [1, 2, 1]
    counts.remove("a")
    counts.remove("b")
    counts.remove("b")
    assert counts["a"] == 1
    assert len(counts) == 1


def test_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
