"""`chat load`: thousands of clients in one cheap process, and an exact account of every message.

    command    the options, and what `chat load <scenario>` runs          report    what came out, as text and as JSON
    accounts   the users it logs in as: names, tokens, kept in a file     bulk      many at once, straight into MySQL
    reactor    one epoll, timers, nothing else                            fleet     all connections: ramp, beats, returns
    device     one connection: opening, sending, receiving                chain   ◆ the recipient's rules for one timeline
    frames     what a device does with each type of frame                 states    the steps of a connection
    ledger   ◆ sent, accepted, shown: lost, doubled, out of order         histogram ◆ latencies in constant memory
    wire     ◆ frames as bytes, decoded no further than needed            pace    ◆ the open loop: when the next is due
    process    CPU and memory of the servers, from /proc                  preflight  descriptors, ports, nginx's workers
    hops       where the time goes, from the services' own metrics        cluster   what `chat up` runs here
    scenarios/ direct, group, idle, offline, storm

It shares its machine with what it measures, so it has no task per connection and no library between it and the sockets.
Latency counts from the moment at which a message was *meant* to be sent (open loop): a server that stalls does not make
the load wait and so hide the stall. ◆ pure.
"""
