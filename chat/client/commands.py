"""The commands of `chat talk`: one table, name → how it is written, what it does, the function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from chat import protocol
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.outbox import OutboxFull, TooLarge
from chat.client.sdk import LoggedOut
from chat.client.talk import Talk, Usage
from chat.client.text import clean, clock, pad
from chat.errors import ChatError
from chat.message_id import id_of

_STATES: Final = {"friend": "friend", "asked": "you asked", "asking": "asks you: /accept or /reject"}


class Command(NamedTuple):
    usage: str
    what: str
    run: Callable[[Talk, Sequence[str]], Awaitable[None]]
    least: int  # words


async def typed(talk: Talk, line: str) -> bool:
    """A line of input: a command, or a message for the current conversation. False: the user wants to end."""
    try:
        if not line.startswith("/") or line.startswith("//"):
            if line.strip():
                talk.say(line.removeprefix("/") if line.startswith("//") else line)
        elif line.strip() == "/quit":
            return False
        else:
            await _run(talk, line[1:])
    except (Usage, OutboxFull, TooLarge) as error:
        talk.sorry(str(error))
    except ChatError as error:
        talk.sorry(error.message)
    except (RequestTimeout, ConnectionLost, LoggedOut) as error:
        talk.sorry(f"not done, as far as is known: {error}")
    talk.refresh()
    return True


async def _run(talk: Talk, line: str) -> None:
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise Usage(f"no command /{name}; /help shows them")
    words = rest.split()
    if len(words) < command.least:
        raise Usage(f"/{name} {command.usage}")
    await command.run(talk, words)


async def _log_out(talk: Talk, words: Sequence[str]) -> None:
    if not await talk.client.log_out():
        talk.note("not all was accepted; the rest is sent after the next log-in")


async def _help(talk: Talk, words: Sequence[str]) -> None:
    usages = [(f"/{name} {command.usage}", command.what) for name, command in COMMANDS.items()]
    usages.append(("/quit", "end; nothing is lost"))
    talk.screen.write(*(f"{pad(usage, 32)} {what}" for usage, what in usages), "Any other line is sent; //x sends /x.")


async def _list(talk: Talk, words: Sequence[str]) -> None:
    for summary in talk.client.conversations:
        title = await talk.title(summary.conversation)
        unread = f"{summary.unread} new" if summary.unread else ""
        last = ""
        if summary.last is not None and isinstance(summary.last.text, str):
            last = f"[{clock(summary.last.sent_at)}] {clean(summary.last.text)}"
        talk.screen.write(f"{pad(title, 20)} {pad(unread, 8)} {last}".rstrip())


async def _to(talk: Talk, words: Sequence[str]) -> None:
    await talk.open(words[0])


async def _msg(talk: Talk, words: Sequence[str]) -> None:
    talk.say(" ".join(words[1:]), await talk.resolve(words[0]))


async def _history(talk: Talk, words: Sequence[str]) -> None:
    await talk.history(*_newest(talk, words, "/history", 20))


async def _ids(talk: Talk, words: Sequence[str]) -> None:
    conversation, limit = _newest(talk, words, "/ids", 5)
    for message in reversed((await talk.client.past(conversation, limit)).messages):
        if (name := id_of(message)) is not None:
            talk.screen.write(f"{name}  {await talk.line(conversation, message)}")


def _newest(talk: Talk, words: Sequence[str], command: str, usual: int) -> tuple[str, int]:
    """The current conversation, and how many of it."""
    if words and not words[0].isdecimal():
        raise Usage(f"{command} [HOW MANY]")
    if talk.current is None:
        raise Usage("of which conversation? /to NAME or /to #GROUP first")
    return talk.current, int(words[0]) if words else usual


async def _find(talk: Talk, words: Sequence[str]) -> None:
    everywhere = words[0] == "everywhere:"
    if talk.client.shelf is None:
        raise Usage("there is no local history in this run")
    if everywhere and len(words) < 2:
        raise Usage("/find everywhere: TEXT")
    await talk.find(" ".join(words[everywhere:]), None if everywhere else talk.current)


async def _outbox(talk: Talk, words: Sequence[str]) -> None:
    for own in talk.client.sending.marks:
        if own.state == "sending":
            talk.screen.write(f"… {await talk.title(own.entry.conversation)}: {clean(own.entry.text)}")


async def _retry(talk: Talk, words: Sequence[str]) -> None:
    if not talk.failed:
        raise Usage("nothing has failed")
    entry = talk.failed.popleft()
    talk.say(entry.text, entry.conversation)


async def _friends(talk: Talk, words: Sequence[str]) -> None:
    for friend in await talk.client.friends():
        online = talk.client.online.get(friend.user)
        there = "" if online is None else "on line" if online else "off line"
        talk.screen.write(f"{pad(friend.name, 20)} {_STATES[friend.state]} {there}".rstrip())


async def _add(talk: Talk, words: Sequence[str]) -> None:
    user = await talk.client.find_user(words[0])
    await talk.client.do(protocol.FriendRequest(user=user, text=" ".join(words[1:])))


def _about(request: type[protocol.Request]) -> Callable[[Talk, Sequence[str]], Awaitable[None]]:
    """A command that is a request about one user."""

    async def command(talk: Talk, words: Sequence[str]) -> None:
        await talk.client.do(request(user=await talk.client.find_user(words[0])))  # type: ignore[call-arg,arg-type]

    return command


async def _who(talk: Talk, words: Sequence[str]) -> None:
    friends = [f.user for f in await talk.client.friends() if f.state == "friend"]
    for user, online in (await talk.client.watch(friends)).items():
        talk.screen.write(f"{pad(talk.client.name_of(f'u{user}'), 20)} {'on line' if online else 'off line'}")


async def _groups(talk: Talk, words: Sequence[str]) -> None:
    for group in await talk.client.groups():
        talk.screen.write(f"{pad('#' + clean(group.name), 20)} #{group.group}, {group.members} members")


async def _create(talk: Talk, words: Sequence[str]) -> None:
    names = [w for w in words[1:] if w != "--open"]
    members = [await talk.client.find_user(name) for name in names]
    group = await talk.client.create_group(words[0].lstrip("#"), members, open="--open" in words)
    talk.screen.write(f"#{clean(words[0].lstrip('#'))} is group #{group}")
    talk.current = f"g{group}"


async def _join(talk: Talk, words: Sequence[str]) -> None:
    number = words[0].lstrip("#")
    if not number.isdecimal():
        raise Usage("/join NUMBER (the one in the invitation, or as a member tells you)")
    await talk.client.do(protocol.GroupJoin(group=int(number)))
    talk.current = f"g{int(number)}"


async def _group_of(talk: Talk, words: Sequence[str]) -> int:
    """The group named, or the current one."""
    conversation = await talk.resolve(words[0]) if words and words[0].startswith("#") else talk.current
    if conversation is None or conversation[0] != "g":
        raise Usage("which group? name it as #NAME or #NUMBER, or go there with /to")
    return int(conversation[1:])


async def _leave(talk: Talk, words: Sequence[str]) -> None:
    group = await _group_of(talk, words)
    await talk.client.do(protocol.GroupLeave(group=group))
    if talk.current == f"g{group}":
        talk.current = None


async def _invite(talk: Talk, words: Sequence[str]) -> None:
    user = await talk.client.find_user(words[-1])
    await talk.client.do(protocol.GroupInvite(group=await _group_of(talk, words[:-1]), user=user))


async def _expel(talk: Talk, words: Sequence[str]) -> None:
    user = await talk.client.find_user(words[-1])
    await talk.client.do(protocol.GroupRemove(group=await _group_of(talk, words[:-1]), user=user))


async def _members(talk: Talk, words: Sequence[str]) -> None:
    for member in await talk.client.members(await _group_of(talk, words)):
        talk.screen.write(f"{pad(member.name, 20)} {member.role}")


COMMANDS: Final[dict[str, Command]] = {
    "help": Command("", "this", _help, 0),
    "list": Command("", "your conversations, with what is unread", _list, 0),
    "to": Command("NAME|#GROUP", "write to a user or a group from now on", _to, 1),
    "msg": Command("NAME|#GROUP TEXT", "write one message", _msg, 2),
    "history": Command("[HOW MANY]", "what was said here", _history, 0),
    "ids": Command("[HOW MANY]", "the last messages here with their ids, for chat trace", _ids, 0),
    "find": Command("[everywhere:] TEXT", "search here, or all, on this device", _find, 1),
    "outbox": Command("", "what is not accepted yet", _outbox, 0),
    "retry": Command("", "send the first message that failed again", _retry, 0),
    "friends": Command("", "your friends, and who asks", _friends, 0),
    "add": Command("NAME [TEXT]", "ask to be a friend", _add, 1),
    "accept": Command("NAME", "say yes", _about(protocol.FriendAccept), 1),
    "reject": Command("NAME", "say no", _about(protocol.FriendReject), 1),
    "remove": Command("NAME", "be friends no more", _about(protocol.FriendRemove), 1),
    "block": Command("NAME", "refuse what he sends you", _about(protocol.Block), 1),
    "unblock": Command("NAME", "take it again", _about(protocol.Unblock), 1),
    "who": Command("", "which friends are on line, and follow it", _who, 0),
    "groups": Command("", "your groups", _groups, 0),
    "create": Command("NAME [MEMBER…] [--open]", "make a group; open: anyone may join", _create, 1),
    "join": Command("NUMBER", "go into a group", _join, 1),
    "leave": Command("[#GROUP]", "go out", _leave, 0),
    "invite": Command("[#GROUP] NAME", "let someone in", _invite, 1),
    "expel": Command("[#GROUP] NAME", "put someone out (the owner)", _expel, 1),
    "members": Command("[#GROUP]", "who is in", _members, 0),
    "logout": Command("", "end; the next start asks for the password", _log_out, 0),
}
