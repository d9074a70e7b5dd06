"""`chat replay`: the log read again, to see what happened. Nothing is written to the live cluster.

command.py    the command line
selection.py ◆ which records: by time, offset, user, conversation, message id
lines.py     ◆ a line a record, for people or for machines
printing.py    reading, selecting, pacing, writing
explain/       as one device saw it, with what its ordering did to each record
sandbox/       into a throw-away database by persist's own code, and the difference to the live one
rate.py        how fast it is
"""
