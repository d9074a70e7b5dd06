#!/usr/bin/env python3
"""Writes the two CSV files that chat.jmx reads, for users that `chat load prepare` has made.

    chat load prepare --users 5
    python examples/jmeter/frames.py --users-file .chat/load-users.json --users 5 --messages 600

    users.csv   a line a thread: its `resume`, the frame of a message up to its seq, its `ack`; all in hexadecimal
    seqs.csv    0, 1, 2 … in hexadecimal: each thread reads it from its beginning

The frames are those of docs/protocol.md, without the four bytes of their length, which JMeter writes. Only what changes from
message to message (its seq) is a column of its own. users.csv has tokens in it: whoever reads it can log in as these users.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def hexadecimal(text: str) -> str:
    return text.encode().hex()


def resume(account: dict[str, Any]) -> str:
    return json.dumps({"type": "resume", "token": account["token"], "device": account["device"]})


def message_up_to_seq(user: int, stream: int) -> str:
    """A note to oneself; `"text"` and the end come from the plan."""
    return f'{{"type":"send","to":{user},"stream":{stream},"seq":'


def ack(user: int) -> str:
    """It acknowledges nothing that was not acknowledged before, and is not answered."""
    return json.dumps({"type": "ack", "timeline": f"u{user}", "pos": 1})


def user_lines(accounts: list[dict[str, Any]], stream: int) -> list[str]:
    """Raises SystemExit: one has no token."""
    lines = []
    for account in accounts:
        if not account["token"]:
            raise SystemExit(f"{account['name']} has no token yet: chat load prepare")
        user = int(account["user"])
        lines.append(",".join(map(hexadecimal, (resume(account), message_up_to_seq(user, stream), ack(user)))))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="The CSV files of chat.jmx.")
    parser.add_argument("--users-file", type=Path, default=Path(".chat/load-users.json"))
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument("--messages", type=int, default=600, help="of each user, at most")
    parser.add_argument("--folder", type=Path, default=HERE)
    given = parser.parse_args()
    people = json.loads(given.users_file.read_text())["people"]
    if len(people) < given.users:
        raise SystemExit(f"{given.users_file} has {len(people)} users: chat load prepare --users {given.users}")
    # A stream is new in each run, so that its seqs may begin at 0 again.
    lines = user_lines(people[: given.users], secrets.randbits(40))
    private = os.open(given.folder / "users.csv", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(private, "w") as file:
        file.write("\n".join(lines) + "\n")
    (given.folder / "seqs.csv").write_text("".join(f"{hexadecimal(str(seq))}\n" for seq in range(given.messages)))
    print(f"{given.users} users, {given.messages} messages each: {given.folder / 'users.csv'}, {given.folder / 'seqs.csv'}")


if __name__ == "__main__":
    main()
