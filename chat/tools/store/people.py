"""Who of a store may log in: some users of each town, with a token each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from chat.config import Config
from chat.tools.load.accounts import Account, Accounts, load_accounts
from chat.tools.load.bulk import write
from chat.tools.store.corpus import Corpus
from chat.tools.store.fill import name_of
from chat.tools.store.town import Size, device_of

PEOPLE_FILE: Final = "store-users.json"
#: Of each town.
EACH: Final = 12


async def give_tokens(config: Config, corpus: Corpus, path: Path, *, towns: int, seed: int, size: Size | None = None) -> int:
    """Tokens for those that have none in the file yet; how many there are now. Raises PartError, SetupError."""
    size = size or Size()
    accounts = load_accounts(path)
    known = {account.name: account for account in accounts.people}
    wanted = []
    for town in range(towns):
        step = max(1, size.users // EACH)
        for user in range(town * size.users + 1, (town + 1) * size.users + 1, step):
            name = name_of(corpus, seed, user)
            wanted.append(known.get(name) or Account(name=name, device=device_of("phone", user), user=user))
    accounts.people = wanted
    await write(config, [account for account in wanted if not account.token], accounts.secret)
    accounts.save(path)
    return len(wanted)


def people_of(path: Path) -> Accounts:
    return load_accounts(path)
