"""A range of the log stored once more, in a database of its own, and the difference to what is stored.

place.py    the throw-away database
fill.py     persist's own code at work on it
before.py   what the live database knew when the range begins
diff.py   ◆ two sets of rows compared
compare.py  both databases read, hot and cold
run.py      all of it
"""
