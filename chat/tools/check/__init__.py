"""`chat check`: is what is accepted shown once, in order, on every device, and is it once in every history?

    options    what is asked for                        report     what was found: the counts
    ledger   ◆ everything sent, accepted and shown      check      the run: people, traffic, the rest, the comparison
    people     users with several devices, that come and go        history    what the servers have stored, page by page

It uses the client library, survives that everything between is killed meanwhile, and is used by the chaos tests as

    report = await check(CheckOptions(servers=["127.0.0.1:7000"], …), disturb=something_cruel)
"""

from chat.tools.check.check import check
from chat.tools.check.options import CheckOptions
from chat.tools.check.report import CheckReport

__all__ = ["CheckOptions", "CheckReport", "check"]
