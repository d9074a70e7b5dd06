"""`chat store`: a record of millions of messages, made for measuring, and what reading it takes.

    corpus  ◆ who speaks to whom, and in which words: from IRC logs        read      requests of users, one after the other
    town    ◆ a population and two years of what it said, as log records   pages     history, hot and cold; search; sync
    fill      towns into MySQL, by the code of persist                     archive   `chat archive`, and what it took
    people    who may log in as whom                                       tools     `chat replay`, `chat trace`
    command   the command line                                             report    what all of them tell

A store is as many towns as are wanted, so a larger one is a smaller one with towns added. It stands as a cluster does
whose Kafka was lost: all rows are of generation 0, the log goes on in generation 1. ◆ pure.
"""
