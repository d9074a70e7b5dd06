"""The local history: what a device has received and sent, sealed, on its disk. `docs/local-history.md` has the format.

keys.py      the account key behind the password, and the keys made of it
layout.py ◆  one record: sealed, opened, found again behind damage
folders.py   a folder per friend or group, a file per day, another at 200 MB
files.py     one such file: read, scanned, appended to
index.py     what lies where, in SQLite; made anew from the files at any time
history.py   all of it together: `LocalHistory`
journal.py   what comes, written in groups off the loop before anything is acknowledged
search.py    one scan of the whole, newest first
"""
