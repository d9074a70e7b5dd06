"""`chat bench`: what is promised of speed, measured by one command and written down.

    command   the options, and what `chat bench [ROW]…` runs           rows    ◆ what is measured, how, and the goals
    conduct   its own cluster, one `chat load` after the other          search  ◆ the most messages a second
    stores    another one, with a record of millions of messages        running   commands, and the report that they print
    machine   on what it was measured                                   results   the files of docs/bench
    render  ◆ docs/performance.md from them                             sizing  ◆ docs/sizing.md: what many connections need

Each run is a `chat load`, or a `chat store`, in a process of its own, by the very command that the document shows. Goals
that are missed are shown; a message lost, doubled or out of order is a failure. ◆ pure.
"""
