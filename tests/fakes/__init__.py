"""In-memory stand-ins of the ports, for unit tests that must not wait. `tests/contract` holds them to the same suite as the
real adapters.

There is no fake of MySQL: what its port promises (transactions, row counts, snapshots, unique keys) is SQL itself. Tests of
code that speaks SQL use the real server.
"""
