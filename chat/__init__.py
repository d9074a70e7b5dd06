"""A chat cluster. The way of a message:

1. A client sends `send` to the **edge** that holds its connection (`edge/reactor.py`, `edge/connection.py`). The frame is
   decoded (`protocol.py`), its seq checked (`ordering.Window`), and its JSON written once: a record for the recipient's
   timeline and one for the sender's own (`records.py`).
2. The **publisher** (`edge/publisher.py`) hands both to Kafka with what else gathered. When every in-sync replica has
   them, the sender gets `accepted`. From here on the message is neither lost, nor doubled, nor out of order.
3. A **router** (`router/`) reads `chat.messages`, asks Redis which edges hold the recipient, and writes the bytes, with
   `prev` and `pos` spliced on, into the topics of those edges.
4. The recipient's edge (`edge/deliveries.py`) writes them to his sessions. The client (`client/`, `ordering.py`) shows
   them once and in order, asking with `sync` for whatever does not chain.
5. **Persist** (`persist/`) reads the same log and stores rows, stream heads and its offset in one MySQL transaction.
   `sync`, `history` and `fetch` are answered from there (`edge/sync.py`).
"""
