"""`chat doctor`."""

from __future__ import annotations

import json
import os
import sys

import click
import msgspec

from chat.settings import Loaded
from chat.tools.checks import all_checks
from chat.tools.options import with_settings

COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@with_settings(others=("up", "nginx"), cluster=False)
def doctor(loaded: Loaded, as_json: bool) -> int:
    """Is this machine fit for the cluster as it is set? Exit code 1 when it would not start."""
    checks = list(all_checks(loaded.config))
    bad = any(check.level == "bad" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not bad, "checks": [msgspec.to_builtins(check) for check in checks]}))
        return int(bad)
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for check in checks:
        level = click.style(f"{check.level:4}", fg=COLOURS[check.level]) if coloured else f"{check.level:4}"
        click.echo(f"{level} {check.name:30} found {check.found}; needed {check.needed}")
        if check.mend:
            click.echo(f"     {'':30} {'→' if check.level != 'ok' else ''} {check.mend}")
    return int(bad)
