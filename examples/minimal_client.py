"""A whole client in plain Python, written from docs/protocol.md alone: log in, chat, catch up after being away.

    python minimal_client.py 127.0.0.1:7000 alice 'a password' alice.json
    bob: hello                       (lines on standard input are "name: text")

The state file keeps what must survive: the device, how far each timeline is known, the next seqs. (The outbox is in memory
here; a client that may be killed while sending keeps it on disk too.)
"""

import json
import os
import random
import socket
import struct
import sys
import threading
import time


class Client:
    def __init__(self, address, name, password, state_file, show):
        self.address, self.name, self.password, self.file, self.show = address, name, password, state_file, show
        self.state = {"device": f"{random.getrandbits(64):016x}", "known": {}, "next": {}}
        if os.path.exists(state_file):
            with open(state_file) as file:
                self.state = json.load(file)
        self.stream, self.seqs, self.outbox = random.getrandbits(48), {}, []  # a new run numbers on a new stream
        self.lock, self.open, self.sock = threading.RLock(), True, None
        self.logged_in = threading.Event()

    def run(self):  # until close() or a goodbye below 2000
        while self.open:
            try:
                self.connection()
            except OSError as error:
                print(f"connection lost: {error}", file=sys.stderr)
            self.logged_in.clear()
            time.sleep(random.uniform(0.1, 1.0) if self.open else 0)

    def connection(self):
        host, port = self.address.rsplit(":", 1)
        self.asked, self.rid, self.seen, self.busy, self.fresh, self.waiting = {}, 0, {}, set(), set(), {}
        self.known = dict(self.state["known"])  # what is kept is less while something waits for a seq
        with socket.create_connection((host, int(port)), timeout=5) as self.sock:  # 5 s of silence: it is dead
            file = self.sock.makefile("rb")
            self.write(type="hello", version=1, client="minimal/1.0")
            self.ask(lambda _: self.login(), type="register", name=self.name, password=self.password)
            while head := file.read(4):
                frame = json.loads(file.read(struct.unpack(">I", head)[0]))
                with self.lock:
                    if frame.get("rid") in self.asked:
                        self.asked.pop(frame["rid"])(frame)
                    elif handle := getattr(self, "on_" + frame["type"], None):
                        handle(frame)

    def write(self, **frame):
        body = json.dumps(frame).encode()
        with self.lock:
            self.sock.sendall(struct.pack(">I", len(body)) + body)

    def ask(self, then, **frame):
        with self.lock:
            self.rid += 1
            self.asked[self.rid] = then
            self.write(rid=self.rid, **frame)

    def later(self, seconds, do, *what):
        sock = self.sock
        timer = threading.Timer(seconds, lambda: sock is self.sock and sock.fileno() >= 0 and do(*what))
        timer.daemon = True
        timer.start()

    def login(self):
        self.ask(self.opened, type="login", name=self.name, password=self.password, device=self.state["device"])

    def opened(self, frame):
        if frame["type"] == "error":
            raise OSError(frame["message"])
        self.user = frame["user"]
        for timeline, cursor in frame["cursors"].items():
            if timeline not in self.known:  # a device without its state begins at the cursor, with the heads
                self.known[timeline] = cursor
                self.fresh.add(timeline)
            self.sync(timeline)
        for message in self.outbox:  # the same again, in order
            self.write(type="send", **message)
        self.heartbeat()
        self.logged_in.set()

    def heartbeat(self):
        self.write(type="heartbeat")
        self.later(1.0, self.heartbeat)

    def on_goodbye(self, frame):
        self.open = self.open and frame["code"] >= 2000

    # ---- sending

    def send(self, text, **to):  # to=34 or group=7
        with self.lock:
            key = json.dumps(to)
            self.seqs[key] = self.seqs.get(key, -1) + 1
            message = {**to, "stream": self.stream, "seq": self.seqs[key], "text": text}
            self.outbox.append(message)
            self.write(type="send", **message)

    def on_accepted(self, frame):
        def done(m):
            same = all(m.get(k) == frame.get(k) for k in ("to", "group", "stream"))
            return same and m["seq"] <= frame["seq"]

        self.outbox = [m for m in self.outbox if not done(m)]

    # ---- receiving

    def sync(self, timeline):
        if timeline not in self.busy:
            self.busy.add(timeline)
            self.seen.setdefault(timeline, 0)
            after, fresh = self.known[timeline], timeline in self.fresh
            self.ask(lambda f: self.synced(timeline, f), type="sync", timeline=timeline, after=after, limit=500, fresh=fresh)

    def synced(self, timeline, frame):
        self.busy.discard(timeline)
        if frame["type"] == "error":
            self.later(1.0, self.sync, timeline)
            return
        for message in frame["messages"]:
            if message["pos"] > self.known[timeline]:
                self.take(timeline, message)
        if "heads" in frame:
            self.fresh.discard(timeline)
            mine = [key for key in self.state["next"] if key.startswith(timeline + " ")]
            for key in mine:
                del self.state["next"][key]
            for head in frame["heads"]:
                self.state["next"][self.key(timeline, head)] = head["next"]
        self.know(timeline, frame["upto"] - 1)
        if not frame["complete"] or self.seen[timeline] > self.known[timeline]:
            self.later(0 if frame["messages"] else 0.2, self.sync, timeline)

    def on_message(self, frame):
        timeline = f"g{frame['group']}" if "group" in frame else f"u{self.user}"
        known = self.known.setdefault(timeline, 0)
        if timeline not in self.seen:
            self.fresh.add(timeline)  # a group that is new here
        if frame["pos"] <= known:
            return
        if timeline not in self.fresh and frame["prev"] is not None and frame["prev"] <= known:
            self.take(timeline, frame)
            self.know(timeline, frame["pos"])
        else:
            self.seen[timeline] = max(self.seen.get(timeline, 0), frame["pos"])
            self.sync(timeline)

    def on_resync(self, frame):
        for timeline in frame.get("timelines", list(self.known)):
            if timeline not in self.known:
                self.known[timeline] = 0
                self.fresh.add(timeline)
            self.seen[timeline] = self.known[timeline] + 1
            self.sync(timeline)

    def know(self, timeline, pos):
        self.known[timeline] = max(self.known[timeline], pos)
        held = [m["pos"] for key, kept in self.waiting.items() if key.startswith(timeline + " ") for m in kept.values()]
        pos = min([self.known[timeline], *(p - 1 for p in held)])
        if pos > self.state["known"].get(timeline, -1) and timeline not in self.fresh:
            self.state["known"][timeline] = pos
            with open(self.file + ".new", "w") as file:
                json.dump(self.state, file)
            os.replace(self.file + ".new", self.file)
            self.write(type="ack", timeline=timeline, pos=pos)

    def key(self, timeline, m):  # (sender, conversation, stream) within a timeline
        return f"{timeline} {m['from']} {m.get('to')} {m.get('group')} {m['stream']}"

    def take(self, timeline, message):
        if message["kind"] != "text":
            self.show(message)
            return
        key = self.key(timeline, message)
        waiting = self.waiting.setdefault(key, {})
        if key not in self.state["next"] and timeline in self.fresh:
            self.state["next"][key] = message["seq"]
        waiting[message["seq"]] = message
        self.unwait(key)
        if waiting:
            self.later(1.0, self.fetch, key, message)

    def unwait(self, key):
        waiting, following = self.waiting[key], self.state["next"].get(key, 0)
        for seq in [seq for seq in waiting if seq < following]:
            del waiting[seq]
        while following in waiting:
            self.show(waiting.pop(following))
            following += 1
        self.state["next"][key] = following

    def fetch(self, key, message):
        with self.lock:
            missing = [s for s in range(self.state["next"][key], message["seq"]) if s not in self.waiting[key]][:500]
            to = {k: message[k] for k in ("from", "to", "group", "stream") if k in message}
            if missing:
                self.ask(lambda frame: self.fetched(key, message, frame), type="fetch", seqs=missing, **to)

    def fetched(self, key, message, frame):
        for found in frame.get("messages", ()):
            self.waiting[key][found["seq"]] = found
        self.unwait(key)
        while self.state["next"][key] in frame.get("void", ()):
            self.state["next"][key] += 1
            self.unwait(key)
        self.know(key.split()[0], 0)
        if self.waiting[key]:
            self.later(1.0, self.fetch, key, message)

    def close(self):
        self.open = False
        self.write(type="goodbye")


def main():
    client = Client(*sys.argv[1:5], show=lambda m: print(m["from"], m.get("text", m["kind"]), flush=True))
    threading.Thread(target=client.run, daemon=True).start()
    client.logged_in.wait(10)
    for line in sys.stdin:
        name, text = line.rstrip("\n").split(": ", 1)
        client.ask(lambda frame, text=text: client.send(text, to=frame["user"]), type="find_user", name=name)
    while client.outbox:
        time.sleep(0.05)
    client.close()


if __name__ == "__main__":
    main()
