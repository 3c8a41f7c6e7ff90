# SPDX-License-Identifier: Apache-2.0
"""A population with everything in it: sides, aliases, groups, odd local parts, other spellings of the domain."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

CONFIGURATION = """
[daemon]
socketmap = ["unix:{folder}/socketmap.sock"]
policy = ["unix:{folder}/policy.sock"]
control = "unix:{folder}/control.sock"
metrics = "unix:{folder}/metrics.sock"
state = "{folder}/state"

[directories.here]
type = "sql"
url = "sqlite:///{folder}/here.db"
query = "SELECT address, kind, targets, location, active FROM recipients"

[directories.there]
type = "file"
path = "{folder}/there.txt"
format = "list"

[destinations.m365]
hosts = ["example-com.mail.protection.example.org", "backup.example.org"]
tls = "ca+name"
peers = ["203.0.113.0/24", "2001:db8::/32"]

[destinations.old]
hosts = ["old.example.org"]
port = 2525
service = "slow"

[destinations.tenant]
domain = "cloud.example.org"
envelope = "tenant.example.org"

[destinations.strip]
hosts = ["strip.example.org"]
plus = "strip"

[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "m365"
unknown = "reject"
local_transport = "lmtp:unix:private/lmtp"
postmaster = "u1@example.com"
locations = {{ cloud = "m365", legacy = "old", store2 = "local:lmtp:[store2.example.com]:24" }}

[domains."example.net"]
local = ["here"]
destination = "tenant"
unknown = "verify"
local_transport = "lmtp:unix:private/lmtp"
locations = {{ cloud = "tenant" }}

[domains."example.org"]
alias_of = "example.com"
local_transport = "lmtp:unix:private/lmtp"

[domains."bücher.example"]
local = ["here"]
destination = "strip"
unknown = "relay"
locations = {{ cloud = "strip" }}

[domains."dual.example"]
local = ["here"]
destination = "old"
unknown = "verify"
delivery = "dual"
local_transport = "lmtp:unix:private/lmtp"
locations = {{ cloud = "old" }}
"""

DOMAINS = ("example.com", "example.net", "bücher.example", "dual.example")

ODD = (
    '"a b"',
    "o'b",
    '"a@b"',
    '"a\\"b"',
    "jörg",
    "straße",
    "under_score",
    "d-a-s-h",
    "dots.in.it",
    '".leading"',
    "user+tagged",
    "a=b",
    "{x}|y",
    "$USER",
    "%h",
    "x" * 64,
    "#sharp",
    "UPPER.Case",
)


def make(folder: Path, number: int, seed: int = 1) -> list[str]:
    """Write the directories and the configuration into `folder`; returns every address that is listed."""
    chance = random.Random(seed)
    rows: list[tuple[str, str, str, str | None, int]] = []
    for domain in DOMAINS:
        names = [f"u{n}" for n in range(number // len(DOMAINS))] + list(ODD)
        people = [f"{name}@{domain}" for name in names]
        for n, address in enumerate(people):
            draw = chance.random()
            if n < 3 or draw < 0.5:
                rows.append((address, "mailbox", "", None, 1))
            elif draw < 0.65:
                rows.append((address, "mailbox", "", "cloud", 1))
            elif draw < 0.7 and domain == "example.com":
                rows.append((address, "mailbox", "", chance.choice(["legacy", "store2"]), 1))
            elif draw < 0.73:
                rows.append((address, "mailbox", "", None, 0))
            elif draw < 0.74:
                rows.append((address, "mailbox", "", "no-such-word", 1))
            elif draw < 0.85:
                others = [one for one in chance.sample(people, 2) if " " not in one and "@b" not in one]
                targets = [*others, chance.choice(["outside@elsewhere.test", "missing-one@" + domain, people[0]])]
                rows.append((address, "alias", " ".join(targets[: chance.choice([1, 2, 3])]), None, 1))
            elif draw < 0.95:
                members = chance.sample([one for one in people if one.startswith("u")], 6)
                rows.append((address, "group", ",".join([*members, "outside@elsewhere.test"]), None, 1))
    # one member whose location nobody knows makes the whole group TEMP: not these
    plain = {domain: [row[0] for row in rows if _plain(row, domain)] for domain in ("example.com", "dual.example")}
    big = plain["example.com"] + [f"far{n}@elsewhere.test" for n in range(3000)]
    rows.append(("everybody@example.com", "group", ",".join(big), None, 1))
    rows.append(("everybody@dual.example", "group", ",".join(plain["dual.example"]), None, 1))
    with sqlite3.connect(folder / "here.db") as database:
        database.execute("CREATE TABLE recipients (address, kind, targets, location, active)")
        database.executemany("INSERT INTO recipients VALUES (?, ?, ?, ?, ?)", rows)
    database.close()
    remote = [f"cloudy{n}@example.com" for n in range(number // 4)] + [f"u{n}@example.com" for n in range(20)]
    (folder / "there.txt").write_text("".join(f"{address}\n" for address in remote))
    (folder / "splitmx.toml").write_text(CONFIGURATION.format(folder=folder))
    return [row[0] for row in rows] + remote


def _plain(row: tuple[str, str, str, str | None, int], domain: str) -> bool:
    return row[1] == "mailbox" and row[3] != "no-such-word" and row[0].startswith("u") and row[0].endswith(f"@{domain}")
