# SPDX-License-Identifier: Apache-2.0
"""`postfix show` for configurations that do not go with the way they are to be deployed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.mta.daemon import Splitmx

pytestmark = pytest.mark.skipif(not shutil.which("postconf"), reason="Postfix is not installed")

CONFIG = """
[daemon]
state = "{{state}}"
socketmap = {sockets}
policy = {sockets}
[directories.here]
type = "file"
path = "people"
format = "list"
[destinations.m365]
hosts = ["mx.away.test"]
[domains."example.com"]
local = ["here"]
destination = "m365"
local_transport = "lmtp:[127.0.0.1]:24"
{domain}
"""


def _show(folder: Path, sockets: str, domain: str, deploy: str) -> tuple[int, str, str]:
    postfix = folder / "postfix"
    postfix.mkdir(exist_ok=True)
    (folder / "people").write_text("ann@example.com\n")
    (postfix / "main.cf").write_text(f"compatibility_level = 3.6\nqueue_directory = {postfix}/queue\n")
    (postfix / "master.cf").write_text("smtp inet n - n - - smtpd\nrelay unix - - n - - smtp\n")
    splitmx = Splitmx(
        CONFIG.format(sockets=sockets, domain=domain)
        .replace("map.sock", "policy.sock", 2)
        .replace("policy.sock", "map.sock", 1),
        folder,
        MAIL_CONFIG=str(postfix),
    )
    done = splitmx.run("postfix", "show", "--json", "--deploy", deploy)
    plan = json.loads(done.stdout)
    return done.returncode, " ".join(plan["problems"]), " ".join(plan["notes"])


@pytest.mark.parametrize(
    "domain", ['unknown = "verify"', 'unknown = "relay"', 'unknown = "reject"\nsubdomains="match"']
)
def test_static_alone_is_refused_where_files_would_refuse_people(folder: Path, domain: str) -> None:
    """Files hold listed addresses only: deployed alone they would refuse who is at the other side, so show says no."""
    if "reject" in domain:
        domain += '\nlocations = { cloud = "m365" }'
    sockets = f'["unix:{folder}/postfix/queue/splitmx/map.sock"]'
    code, problems, notes = _show(folder, sockets, domain, "static")
    assert code == 1
    assert "example.com" in problems
    assert "--alone" in notes
    code, problems, _ = _show(folder, sockets, domain, "both")
    assert (code, problems) == (0, "")


def test_static_alone_is_right_for_reject(folder: Path) -> None:
    """With unknown = "reject" and no live listener nothing is in the way."""
    code, problems, notes = _show(folder, "[]", 'unknown = "reject"\nlocations = { cloud = "m365" }', "static")
    assert (code, problems) == (0, "")
    assert "--alone" not in notes
