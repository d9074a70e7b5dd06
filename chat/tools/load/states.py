"""Where a device is on its way. Plain numbers, since they are compared some ten thousand times a second."""

OFF, CONNECTING, GREETING, OPENING, SYNCING, READY = range(6)
