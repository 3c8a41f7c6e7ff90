# SPDX-License-Identifier: Apache-2.0
"""`splitmx build`: what it writes, when it writes, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from typing import get_args

import pytest

from tests.static.setup import Setup
from transport.config.load import load
from transport.config.model import StaticTable
from transport.maps import relay_domains
from transport.maps.postmap import ENDINGS
from transport.names import Names

GUARD = "SELECT 1 FROM domain WHERE name = ? OR (sub = 1 AND ? LIKE '%.' || name)"

FILES = {
    "transport",
    "relay_recipients",
    "virtual_alias",
    "recipient_bcc",
    "relay_domains",
    "tls_policy",
    "domains.sqlite",
    "shadow_transport",
    "shadow_generic",
    "peers_access",
}


def test_every_type_of_the_configuration_can_be_built() -> None:
    """What `[static] types` takes, and what can be built, are the same list."""
    (one,) = get_args(StaticTable.model_fields["types"].annotation)
    assert set(get_args(one)) == set(ENDINGS)


def test_every_map_is_written_under_its_name(setup: Setup) -> None:
    """All names of the contract exist, and nothing is left lying about."""
    setup.build()
    names = {path.name for path in setup.maps.iterdir() if not path.name.startswith(".")}
    indexed = {
        f"{name}.lmdb" for name in ("transport", "relay_recipients", "virtual_alias", "recipient_bcc", "tls_policy")
    }
    assert names == FILES | indexed
    assert setup.look_up("lmdb:transport", "u1@example.com") == "lmtp:unix:private/lmtp"
    assert setup.look_up("lmdb:transport", "cloudy@example.com") == "relay:[mx1.example.org],[mx2.example.org]"
    assert setup.look_up("lmdb:relay_recipients", "cloudy@example.com") == "RELAY"
    assert setup.look_up("lmdb:relay_recipients", "stranger@example.com") == ""
    assert setup.look_up("lmdb:tls_policy", "[mx2.example.org]") == "encrypt"


def test_without_a_type_postconf_says_which(setup: Setup) -> None:
    """The default is what `postconf default_database_type` names."""
    done = subprocess.run(
        ["postconf", "-h", "default_database_type"],
        capture_output=True,
        text=True,
        env=os.environ | {"MAIL_CONFIG": str(setup.mail_config)},
    )
    setup.splitmx("build", "--output", str(setup.maps))
    ending = {"hash": "db", "btree": "db"}.get(done.stdout.strip(), done.stdout.strip())
    assert (setup.maps / f"transport.{ending}").exists()


def test_both_spellings_of_a_domain_have_lines(setup: Setup) -> None:
    """Postfix takes the U-label and the A-label for two keys."""
    setup.build()
    for name in ("bücher.example", "xn--bcher-kva.example"):
        assert setup.look_up("lmdb:relay_recipients", f"b1@{name}") == "LOCAL"
        assert setup.look_up("lmdb:transport", f"cloudy@{name}") == "relay:cloud.example.org:2525"
        assert setup.look_up("regexp:relay_domains", name) == "OK"


def test_nothing_is_touched_when_nothing_changed(setup: Setup) -> None:
    """A second build leaves every file as it is."""
    setup.build()
    before = setup.stamps()
    assert "nothing has changed" in setup.build().stdout
    assert setup.stamps() == before


def test_only_what_changed_is_replaced_and_by_rename(setup: Setup) -> None:
    """A reader of the old index goes on with the whole old file."""
    setup.build()
    before = setup.stamps()
    with (setup.maps / "relay_recipients.lmdb").open("rb") as held:
        setup.people([f"u{n}@example.com" for n in range(41)] + [f"b{n}@bücher.example" for n in range(3)])
        setup.build()
        assert os.fstat(held.fileno()).st_nlink == 0
    after = setup.stamps()
    assert setup.look_up("lmdb:relay_recipients", "u40@example.com") == "LOCAL"
    changed = {name for name in after if after[name][0] != before[name][0]}
    per_recipient = {"transport", "relay_recipients", "virtual_alias"}
    assert changed == per_recipient | {f"{name}.lmdb" for name in per_recipient}


@pytest.mark.parametrize("kind", ["hash", "btree", "cdb", "lmdb", "texthash"])
def test_every_type_answers_after_a_change(setup: Setup, kind: str) -> None:
    """Each type of map is built, replaced, and looked up without a complaint of Postfix."""
    setup.build(f"--type={kind}")
    setup.people([f"u{n}@example.com" for n in range(39)] + ["new@example.com"])
    setup.build(f"--type={kind}", check=False)
    assert setup.look_up(f"{kind}:relay_recipients", "new@example.com") == "LOCAL"
    assert setup.look_up(f"{kind}:relay_recipients", "u39@example.com") == ""


def test_a_missing_index_is_made_again(setup: Setup) -> None:
    """Somebody removed an indexed file: the next build brings it back."""
    setup.build()
    (setup.maps / "transport.lmdb").unlink()
    assert setup.build("--check", check=False).returncode == 1
    setup.build()
    assert setup.look_up("lmdb:transport", "u1@example.com")


def test_indexes_of_other_types_are_named(setup: Setup) -> None:
    """A type that is not built any more would grow stale without a word."""
    setup.build("--type=hash")
    assert "transport.db" in setup.build("--type=lmdb").stdout


def test_check_writes_nothing_and_ends_with_one(setup: Setup) -> None:
    """--check prints differences only; without any it ends with 0."""
    done = setup.build("--check", check=False)
    assert done.returncode == 1
    assert not setup.maps.exists()
    setup.build()
    assert setup.build("--check").returncode == 0
    before = setup.stamps()
    setup.people([f"u{n}@example.com" for n in range(39)] + ["new@example.com"])
    done = setup.build("--check", check=False)
    assert done.returncode == 1
    assert "+new@example.com" in done.stdout
    assert "-u39@example.com" in done.stdout
    assert setup.stamps() == before


def test_alone_serves_reject_only(setup: Setup) -> None:
    """Files cannot say anything of unlisted addresses: relay and verify are refused unless a live map stands behind."""
    setup.configure(live=False)
    done = setup.build(check=False)
    assert done.returncode == 2
    assert 'unknown = "verify"' in done.stderr
    setup.build("--behind-live")
    shutil.rmtree(setup.maps)
    setup.configure(live=False, unknown="reject")
    setup.build()
    assert setup.look_up("lmdb:transport", "example.com") == "lmtp:unix:private/lmtp"
    assert setup.look_up("lmdb:relay_recipients", "example.com") == ""


def test_behind_a_live_map_no_domain_has_a_line(setup: Setup) -> None:
    """A domain's line would hide the live map from everybody who is not listed."""
    setup.configure(unknown="reject")
    setup.build()
    assert setup.look_up("lmdb:transport", "example.com") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write into another user's folder")
def test_what_root_writes_belongs_to_the_folders_owner(setup: Setup) -> None:
    """An administrator's `splitmx build` must not lock the daemon out of its own files."""
    setup.maps.mkdir()
    os.chown(setup.maps, 65534, 65534)
    setup.build("--type=hash", "--type=lmdb")
    assert {path.stat().st_uid for path in setup.maps.iterdir()} == {65534}
    below = setup.maps / "new"
    setup.build("--output", str(below))
    assert below.stat().st_uid == 65534


def test_what_cannot_be_decided_has_no_line_and_is_told(setup: Setup) -> None:
    """A location word that nobody knows is TEMP: never a guess in a file."""
    with sqlite3.connect(setup.folder / "here.db") as database:
        database.execute("INSERT INTO recipients VALUES ('odd@example.com', 'mailbox', '', 'mars', 1)")
        database.execute("INSERT INTO recipients VALUES ('#sharp@example.com', 'mailbox', '', NULL, 1)")
    database.close()
    done = setup.build(check=False)
    assert done.returncode == 1
    assert "odd@example.com" in done.stdout
    assert "mars" in done.stdout
    assert "#sharp@example.com" in done.stdout
    assert setup.look_up("lmdb:transport", "odd@example.com") == ""
    report = setup.report()
    assert sum(report["left_out"].values()) == 2
    assert report["complete"] is False


def test_alone_puts_off_what_cannot_be_decided(setup: Setup) -> None:
    """Without a live map such a recipient has a route to retry(8), and is neither unknown nor the one whose name stands
    before a delimiter."""
    rows = [(name, "mailbox", "", "mars") for name in ("odd@example.com", "odd+own@example.com", '"o d"@example.com')]
    with sqlite3.connect(setup.folder / "here.db") as database:
        database.executemany("INSERT INTO recipients VALUES (?, ?, ?, ?, 1)", rows)
    database.close()
    setup.configure(live=False, unknown="reject")
    setup.build(check=False)
    for name in (row[0] for row in rows):
        assert setup.look_up("lmdb:transport", name).startswith("retry:4.3.0 ")
        assert setup.look_up("lmdb:relay_recipients", name) == ""
    assert setup.look_up("lmdb:virtual_alias", "odd@example.com") == ""
    for table in ("virtual_alias", "recipient_bcc"):
        assert setup.look_up(f"lmdb:{table}", "odd+own@example.com") == "odd+own@example.com"


def test_shadows_of_quoted_names_are_keys_in_external_form(setup: Setup) -> None:
    """The value of recipient_bcc is in internal form; its line in virtual_alias must not begin with half a name."""
    rows = [
        ('"the group"@dual.example', "group", '"a, b"@dual.example u1@dual.example'),
        ('"a, b"@dual.example', "mailbox", ""),
        ("u1@dual.example", "mailbox", ""),
    ]
    with sqlite3.connect(setup.folder / "here.db") as database:
        database.executemany("INSERT INTO recipients VALUES (?, ?, ?, NULL, 1)", rows)
    database.close()
    setup.configure(
        more='[domains."dual.example"]\nlocal = ["here"]\ndestination = "m365"\ndelivery = "dual"\n'
        'local_transport = "lmtp:unix:private/lmtp"\n'
    )
    done = setup.build()
    assert "duplicate" not in done.stdout + done.stderr
    shadow = "dual.example.m365.splitmx.invalid"
    assert setup.look_up("lmdb:recipient_bcc", '"the group"@dual.example') == f"the group@{shadow}"
    assert setup.look_up("lmdb:virtual_alias", f'"the group"@{shadow}') == f'"a, b"@{shadow}, u1@{shadow}'
    keys = [line.partition("\t")[0] for line in (setup.maps / "virtual_alias").read_text().splitlines()]
    assert sorted(key for key in keys if key.endswith(shadow)) == [f'"the group"@{shadow}']
    assert not [key for key in keys if "@" not in key and not key.startswith("# ")]


def test_static_only_maps(setup: Setup) -> None:
    """Routes and rewriting of copies, envelope domains, and the peers' networks."""
    setup.build()
    route = "dual-m365:[mx1.example.org],[mx2.example.org]"
    assert setup.look_up("regexp:shadow_transport", "ann@example.com.m365.splitmx.invalid") == route
    local = "splitmx-lmtp:unix:private/lmtp"
    assert setup.look_up("regexp:shadow_transport", "ann@example.com.local.splitmx.invalid") == local
    assert setup.look_up("regexp:shadow_transport", "ann@tenant.example.org") == "relay:cloud.example.org:2525"
    assert setup.look_up("regexp:shadow_transport", "ann@example.com") == ""
    for key in ("ann@example.com.m365.splitmx.invalid", "ann@example.com.local.splitmx.invalid"):
        assert setup.look_up("regexp:shadow_generic", key) == "ann@example.com"
    assert setup.look_up("regexp:shadow_generic", "ann@example.com") == ""
    assert setup.look_up("cidr:peers_access", "203.0.113.77") == "permit"
    assert setup.look_up("cidr:peers_access", "192.0.2.1") == ""
    assert setup.look_up("regexp:relay_domains", "EXAMPLE.com") == "OK"
    assert setup.look_up("regexp:relay_domains", "lists.example.com") == ""


@pytest.mark.parametrize("how", ["strip", "match"])
def test_files_take_the_names_that_are_answered(setup: Setup, how: str) -> None:
    """relay_domains and the guard's table take what the daemon answers for, where domains stand below open ones."""
    split = 'local = ["here"]\ndestination = "m365"\nunknown = "verify"\n'
    setup.configure(
        more=f'[domains."corp.example"]\n{split}subdomains = "{how}"\n[domains."lab.corp.example"]\n{split}'
        f'[domains."open.lab.corp.example"]\n{split}subdomains = "strip"\n[domains."off.example"]\n{split}'
        f'enabled = false\nsubdomains = "{how}"\n[domains."in.off.example"]\n{split}'
    )
    setup.build()
    names = Names(load(setup.folder / "splitmx.toml"))
    tops = ("corp.example", "lab.corp.example", "open.lab.corp.example", "off.example", "in.off.example")
    with closing(sqlite3.connect(setup.maps / "domains.sqlite")) as table:
        for name in (*tops, *(f"x.{top}" for top in tops), *(f"y.x.{top}" for top in tops), "xcorp.example"):
            answer = relay_domains.answer(names.place(name))
            assert setup.look_up("regexp:relay_domains", name) == answer.value, name
            ours = table.execute(GUARD, (name, name)).fetchone() is not None
            assert ours == (answer.status == "OK"), name


def test_many_domains_are_an_indexed_file(setup: Setup) -> None:
    """Beyond 500 domains each key would be matched against each line."""
    more = "".join(
        f'[domains."d{n}.example.com"]\nlocal = ["here"]\ndestination = "m365"\nunknown = "verify"\n'
        f'local_transport = "lmtp:{"unix:other" if n == 7 else "unix:store"}"\n'
        for n in range(520)
    )
    setup.configure(more=more)
    setup.build()
    assert setup.look_up("lmdb:relay_domains", "d519.example.com") == "OK"
    # the routes of local copies as well: one line for all that share a store
    assert len((setup.maps / "shadow_transport").read_text().splitlines()) < 20
    for name, store in (("d3.example.com", "unix:store"), ("d7.example.com", "unix:other")):
        assert setup.look_up("regexp:shadow_transport", f"ann@{name}.local.splitmx.invalid") == f"splitmx-lmtp:{store}"
    # a running Postfix sees a new indexed file at once, and a new guard only after a reload
    setup.configure(more=more + '[domains."late.example"]\nlocal = ["here"]\ndestination = "m365"\n')
    done = setup.build(check=False)
    assert "late.example" in done.stdout
    assert setup.look_up("lmdb:relay_domains", "late.example") == ""
    setup.build()
    assert setup.look_up("lmdb:relay_domains", "late.example") == "OK"
    # a damaged guard is new in every line, but nobody of ours leaves relay_domains for that
    (setup.maps / "domains.sqlite").write_bytes(b"")
    setup.build(check=False)
    assert setup.look_up("lmdb:relay_domains", "late.example") == "OK"


def test_an_index_older_than_its_text_is_made_again(setup: Setup) -> None:
    """A build for another type alone leaves an index behind; the next one of that type finds it old, and mends it."""
    setup.build()
    setup.people([f"u{n}@example.com" for n in range(40)] + ["new@example.com"])
    setup.build("--type=cdb")
    assert setup.look_up("lmdb:relay_recipients", "new@example.com") == ""

    assert setup.build("--check", check=False).returncode == 1
    setup.build()

    assert setup.look_up("lmdb:relay_recipients", "new@example.com") == "LOCAL"
    assert setup.build("--check").returncode == 0
