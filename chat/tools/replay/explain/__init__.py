"""As one device saw it: the client's own ordering code, given the records of the user's timelines.

track.py   ◆ the records of a timeline, and what a sync or fetch of them is answered
device.py  ◆ the device: readers of its timelines, and what they did with each record
gather.py    what is needed from Kafka and MySQL
show.py    ◆ lines of it
"""
