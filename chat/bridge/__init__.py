"""Adapters of `chat.ports`: the only place that knows asyncio and the drivers.

async with open_bridge(), open_producer(config.kafka) as producer, open_memory(config.redis) as memory: …

loop.py            the door to asyncio: MySQL, and the membership of consumer groups
link.py            a socket of trio's, for what every message passes through: Kafka's hot requests, Redis
kafka_wire.py      Kafka's protocol on links          kafka_producer.py  kafka_fetch.py  kafka_admin.py
kafka_group.py     kafka_member.py + kafka_fetch.py   kafka_reader.py    kafka_fetch.py alone
redis.py           mysql.py
"""

from chat.bridge.kafka_admin import open_log_admin
from chat.bridge.kafka_group import open_group_consumer
from chat.bridge.kafka_producer import open_producer
from chat.bridge.kafka_reader import open_log_reader
from chat.bridge.loop import open_bridge
from chat.bridge.mysql import open_database
from chat.bridge.redis import open_memory

__all__ = [
    "open_bridge",
    "open_database",
    "open_group_consumer",
    "open_log_admin",
    "open_log_reader",
    "open_memory",
    "open_producer",
]
