"""`chat trace`: the way of one message, hop by hop, from Kafka's topics and MySQL alone.

asked.py     ◆  what is traced: an id, a position, the last of a sender
facts.py     ◆  everything that was found
sessions.py  ◆  who was on line when, from the presence topic
verdict.py   ◆  did it arrive, and if not, why
hops.py      ◆  the way as lines
stored.py       MySQL                logs.py   Kafka, read-only, within a limit of time
gather.py       both, in order       command.py  render.py
◆ pure.
"""
