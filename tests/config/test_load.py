# SPDX-License-Identifier: Apache-2.0
"""The configuration loads into settings, or says everything that is wrong with it."""

from __future__ import annotations

import grp
import os
import pickle
import re
import shutil
import socket
from pathlib import Path

import pytest

from transport.config import model
from transport.config.errors import ConfigErrors
from transport.config.load import load, load_text
from transport.config.settings import (
    FileOptions,
    LdapOptions,
    Listener,
    Location,
    Peer,
    Settings,
    SqlOptions,
    Unknown,
)
from transport.mta.hosts import own_names

HERE = Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.toml"))
EXAMPLE = HERE.parent.parent / "contrib" / "splitmx.toml"

SQL = """
[directories.here]
type = "sql"
url = "sqlite:////var/lib/splitmx/directory.db"
query = "SELECT address FROM recipients"
[destinations.m365]
hosts = ["mx.example.net"]
"""


def errors_of(text: str) -> list[str]:
    """The mistakes in a text, one line each; [] for none."""
    try:
        load_text(text, "x.toml")
    except ConfigErrors as errors:
        return [str(error) for error in errors.errors]
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bad configurations, whose secrets have the modes that a checkout does not keep."""
    shutil.copytree(HERE / "bad", tmp_path / "bad")
    (tmp_path / "bad" / "open.secret").chmod(0o644)
    (tmp_path / "bad" / "empty.secret").chmod(0o600)
    return tmp_path / "bad"


@pytest.mark.parametrize("file", BAD, ids=lambda path: path.stem)
def test_every_mistake_is_said_at_once(file: Path, folder: Path) -> None:
    """Each bad configuration gives exactly the lines that stand beside it, in the order of the file."""
    with pytest.raises(ConfigErrors) as caught:
        load(folder / file.name)
    said = [str(error).replace(f"{folder}/", "") for error in caught.value.errors]
    assert said == file.with_suffix(".errors").read_text().splitlines()


@pytest.mark.parametrize("file", BAD, ids=lambda path: path.stem)
def test_no_password_is_said(file: Path, folder: Path) -> None:
    """A message never holds what may be a password."""
    with pytest.raises(ConfigErrors) as caught:
        load(folder / file.name)
    assert "secret-" not in str(caught.value)


@pytest.fixture
def example(tmp_path: Path) -> str:
    """The annotated example, with a group and a password file that exist here."""
    secret = tmp_path / "ldap.secret"
    secret.write_text("geheim\n")
    secret.chmod(0o640)
    text = EXAMPLE.read_text().replace("/etc/splitmx/ldap.secret", str(secret))
    return text.replace("group=postfix", f"group={grp.getgrgid(os.getgid()).gr_name}")


def test_the_example_loads(example: str) -> None:
    """contrib/splitmx.toml is a good configuration and means what it says."""
    settings = load_text(example, "splitmx.toml")
    assert settings.daemon.control == Listener("unix", "/run/splitmx/control.sock", 0o600)
    assert settings.daemon.metrics == Listener("inet", host="127.0.0.1", port=9464)
    assert settings.static is not None
    assert settings.static.for_ == ("postfix",)
    here, corp, there = (settings.directories[name].options for name in ("here", "corp", "there"))
    assert isinstance(here, SqlOptions)
    assert isinstance(corp, LdapOptions)
    assert isinstance(there, FileOptions)
    assert settings.directories["there"].max_age == 0
    assert settings.directories["here"].domains == ("example.com",)
    domain = settings.domains["example.com"]
    assert domain.unknown is Unknown.VERIFY
    assert domain.locations == {
        "cloud": Location("m365"),
        "onprem": Location(),
        "store2": Location(local_transport="lmtp:[store2.example.com]:24"),
    }
    assert settings.waves[0].addresses == {"bob@example.com"}
    assert settings.destinations["m365"].peers[1] == Peer("spf", "spf.example.net")


def test_the_example_shows_every_key() -> None:
    """Each key of each table stands in contrib/splitmx.toml, set or commented out."""
    text = EXAMPLE.read_text()
    tables = [*model.SINGLE.values(), *model.NAMED.values(), *model.DIRECTORY_TYPES.values()]
    keys = {key for table in tables for key in model.keys_of(table)} - {"file"}
    missing = {key for key in keys if not re.search(rf"^(# )?{re.escape(key)}\s*=", text, re.MULTILINE)}
    assert missing == set()
    assert 'or: file = "' in text


def test_settings_are_plain(example: str) -> None:
    """Settings can be pickled, compare equal afterwards, and hold nothing of pydantic."""
    settings = load_text(example, "splitmx.toml")
    packed = pickle.dumps(settings)
    assert b"pydantic" not in packed
    assert pickle.loads(packed) == settings


def test_the_defaults_of_settings_and_of_the_file_agree() -> None:
    """A table without keys means the same as no table."""
    assert load_text("[daemon]\n", "x").daemon == load_text("", "x").daemon == Settings().daemon


def test_what_the_file_means_makes_the_digest() -> None:
    """Comments and blanks do not change the digest, a value does."""
    one = load_text("[daemon]\nworkers = 1\n", "x").digest
    assert load_text("# a comment\n[daemon]\nworkers   = 1\r\n", "y").digest == one
    assert load_text("[daemon]\nworkers = 2\n", "x").digest != one


def test_what_lists_makes_the_fingerprint(tmp_path: Path) -> None:
    """A fingerprint follows url, query and path, not the password, timings or a lookup."""
    secret = tmp_path / "db.secret"
    secret.write_text("one")
    secret.chmod(0o600)

    def fingerprint(more: str = "", url: str = "u@h/d") -> bytes:
        text = f'[directories.d]\ntype = "sql"\nurl = "postgresql://{url}"\n'
        query = "" if "query" in more else 'query = "SELECT address FROM r"\n'
        return load_text(text + query + more, "x").directories["d"].fingerprint

    same = fingerprint()
    assert fingerprint(f'password_file = "{secret}"') == same
    assert fingerprint(url="u:other@h/d") == same
    assert fingerprint('fresh_for = "1m"\nlookup = "SELECT address FROM r WHERE address IN :addresses"') == same
    assert fingerprint(url="u@h/other") != same
    assert fingerprint('query = "SELECT address FROM other"') != same


def test_bare_names_belong_to_their_domains() -> None:
    """Another domain at a passwd directory changes its fingerprint; at a csv it does not."""

    def fingerprints(format_: str) -> set[bytes]:
        text = f'[directories.d]\ntype = "file"\npath = "/x"\nformat = "{format_}"\n[destinations.s]\nhosts = ["s"]\n'
        one = text + '[domains."example.com"]\nlocal = ["d"]\ndestination = "s"\n'
        two = one + '[domains."example.net"]\nlocal = ["d"]\ndestination = "s"\n'
        return {load_text(t, "x").directories["d"].fingerprint for t in (one, two)}

    assert len(fingerprints("passwd")) == 2
    assert len(fingerprints("csv")) == 1


def test_a_password_from_its_file(tmp_path: Path) -> None:
    """The password is encoded into the URL, without its line end, and no repr shows it."""
    secret = tmp_path / "db.secret"
    secret.write_text("p@ss:w/ö%\n")
    secret.chmod(0o640)
    text = SQL.replace("sqlite:////var/lib/splitmx/directory.db", "postgresql+psycopg://splitmx@db:5432/mail?x=1")
    settings = load_text(
        text + f'[directories.here2]\ntype="sql"\nurl="mysql://u@h/d"\nschema="postfixadmin"\n'
        f'password_file = "{secret}"\n',
        "x",
    )
    options = settings.directories["here2"].options
    assert isinstance(options, SqlOptions)
    assert options.url == "mysql://u:p%40ss%3Aw%2F%C3%B6%25@h/d"
    assert "p%40ss" not in repr(settings)


@pytest.mark.parametrize(
    ("format_", "age"),
    [("m365", 0.0), ("zoho", 0.0), ("google", 0.0), ("csv", 0.0)]
    + [(name, None) for name in ("list", "postfix", "passwd", "aliases", "cpanel", "cpanel-uapi")],
)
def test_max_age_depends_on_the_format(format_: str, age: float | None) -> None:
    """The "no" of an export never counts, that of the system's own tables always, unless max_age says otherwise."""
    text = f'[directories.d]\ntype = "file"\npath = "x"\nformat = "{format_}"\n'
    assert load_text(text, "x").directories["d"].max_age == age
    assert load_text(text + 'max_age = "24h"', "x").directories["d"].max_age == 86400


@pytest.mark.parametrize(
    ("unknown", "outsiders"),
    [("reject", Unknown.REJECT), ("verify", Unknown.VERIFY), ("relay", Unknown.VERIFY)],
)
def test_outsiders_is_never_looser_by_default(unknown: str, outsiders: Unknown) -> None:
    """Without the key, outsiders is verify, but reject where strangers are rejected anyway."""
    text = SQL + (
        '[domains."example.com"]\nrole = "secondary"\nlocal = ["here"]\ndestination = "m365"\n'
        f'locations = {{ there = "m365" }}\nunknown = "{unknown}"\n'
    )
    assert load_text(text, "x").domains["example.com"].outsiders is outsiders
    assert not errors_of(text + 'outsiders = "reject"\n')


@pytest.mark.parametrize("delivery", ["dual", "all"])
def test_a_secondary_makes_no_copies(delivery: str) -> None:
    """Row 53: a copy that goes back to the primary would come back again; refused with the reason."""
    text = SQL + (
        f'[domains."example.com"]\nrole = "ROLE"\nlocal = ["here"]\ndestination = "m365"\ndelivery = "{delivery}"\n'
        'local_transport = "lmtp:unix:private/dovecot-lmtp"\n'
    )
    assert not errors_of(text.replace("ROLE", "primary"))
    (error,) = errors_of(text.replace("ROLE", "secondary"))
    assert "the primary would give each copy back" in error


def test_bounces_to_postmaster_need_an_exim() -> None:
    """Row 28, judgement 9: what Postfix cannot do is refused with the reason; an Exim can, live or from files."""
    text = '[destinations.d]\nhosts = ["198.51.100.1"]\nbounce = "postmaster"\n'
    postfix = '[daemon]\nsocketmap = ["unix:/run/splitmx/s.sock"]\n'
    (error,) = errors_of(postfix + text)
    assert "Postfix sends the report of a relayed message to its sender" in error
    assert not errors_of(postfix + 'exim = ["unix:/run/splitmx/e.sock"]\n' + text)
    assert not errors_of(postfix + '[static]\nfor = ["postfix", "exim"]\n' + text)
    assert not errors_of(text)


def test_one_envelope_domain_goes_one_way() -> None:
    """Two destinations may share an envelope domain only when their mail takes the same way."""
    text = (
        '[destinations.a]\nhosts = ["198.51.100.1"]\nenvelope = "tenant.example"\n'
        '[destinations.b]\nhosts = ["HOST"]\nenvelope = "tenant.example"\nplus = "strip"\n'
    )
    assert not errors_of(text.replace("HOST", "198.51.100.1"))
    (error,) = errors_of(text.replace("HOST", "198.51.100.2"))
    assert "as [destinations.a] has it with other hosts" in error


def test_a_secondary_may_relay_to_the_mx_of_its_domain() -> None:
    """As secondary the MX of the domain is the other side; as primary it is this host."""
    text = (
        '[destinations.mx]\ndomain = "example.com"\n'
        '[domains."example.com"]\nrole = "ROLE"\ndestination = "mx"\nunknown = "relay"\n'
    )
    assert not errors_of(text.replace("ROLE", "secondary"))
    assert "itself" in errors_of(text.replace("ROLE", "primary"))[0]


def test_this_host_is_no_destination() -> None:
    """This host by its name or an interface's address is refused at port 25, another port may be another server."""
    text = '[destinations.d]\nhosts = ["HOST"]\nport = 25\n'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            own = [probe.getsockname()[0]]
        except OSError:
            own = []
    for host in ("127.0.0.1", "localhost", socket.gethostname(), *own):
        assert "this host" in errors_of(text.replace("HOST", host))[0]
        assert not errors_of(text.replace("HOST", host).replace("25", "2525"))
    assert not errors_of(text.replace("HOST", "127.0.0.2"))


def test_domains_are_folded() -> None:
    """A domain in any spelling is its A-label in lower case, wherever it is named."""
    text = SQL + (
        '[domains."MÜNCHEN.example."]\nlocal = ["here"]\ndestination = "m365"\n'
        '[domains."alias.example"]\nalias_of = "münchen.EXAMPLE"\n'
        '[waves.w]\nat = 2026-12-01T13:00:00+01:00\ndomain = "münchen.example"\nto = "m365"\n'
        'addresses = ["Bob@MÜNCHEN.example"]\n'
    )
    settings = load_text(text, "x")
    assert set(settings.domains) == {"xn--mnchen-3ya.example", "alias.example"}
    assert settings.domains["alias.example"].alias_of == "xn--mnchen-3ya.example"
    assert settings.waves[0].addresses == {"bob@xn--mnchen-3ya.example"}
    assert settings.waves[0].at == 1796126400.0


def test_a_wave_from_a_file(tmp_path: Path) -> None:
    """A wave's file has one address a line; comments and blank lines do not count; its path begins at the file's."""
    (tmp_path / "pilot.txt").write_text("# the first\nBob@Example.com\n\n  zed@example.com  \n")
    text = SQL + (
        '[domains."example.com"]\nlocal = ["here"]\ndestination = "m365"\n'
        '[waves.w]\nat = "2026-12-01T12:00:00Z"\ndomain = "example.com"\nto = "m365"\nfile = "pilot.txt"\n'
    )
    file = tmp_path / "splitmx.toml"
    file.write_text(text)
    assert load(file).waves[0].addresses == {"bob@example.com", "zed@example.com"}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("cert:" + "ab" * 32, "AB:" * 31 + "AB"),
        ("listener:[2001:DB8::1]:25", "[2001:db8::1]:25"),
    ],
)
def test_peers_are_written_one_way(written: str, kept: str) -> None:
    """However a peer is written, it is kept in one form."""
    settings = load_text(f'[destinations.d]\nhosts = ["[IPv6:2001:DB8::25]"]\npeers = ["{written}"]\n', "x")
    assert settings.destinations["d"].peers[0].value == kept
    assert settings.destinations["d"].hosts == ("2001:db8::25",)


@pytest.mark.parametrize(
    "hop",
    [
        "lmtp:unix:private/dovecot-lmtp",
        "lmtp:inet:127.0.0.1:24",
        "lmtp:[store.example.com]:smtp",
        "smtp:[ipv6:2001:db8::1]:25",
        "smtp:[a.example.com], [b.example.com]:26",
        "virtual:",
        "local",
        "dovecot:",
        "error:5.1.1 nobody here",
        ":",
        "",
    ],
)
def test_next_hops_that_postfix_reads(hop: str) -> None:
    """What transport(5) allows is allowed."""
    text = SQL + f'[domains."example.com"]\nlocal = ["here"]\ndestination = "m365"\nlocal_transport = "{hop}"\n'
    assert errors_of(text) == []


@pytest.mark.parametrize(
    "hop", ["lmtp:[a", "lmtp:[a]b", "lmtp:a:0", "lmtp:a:65536", "smtp:a:nosuchservice", "lmtp:unix:", "a b:c", "[a]:24"]
)
def test_next_hops_that_would_kill_a_delivery_agent(hop: str) -> None:
    """What smtp(8) stops at is refused."""
    text = SQL + f'[domains."example.com"]\nlocal = ["here"]\ndestination = "m365"\nlocal_transport = "{hop}"\n'
    assert "local_transport" in errors_of(text)[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are mistakes with a place, not tracebacks."""
    (tmp_path / "latin.toml").write_bytes(b"[daemon]\n# M\xfcnchen\n")
    for path, said in (
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "latin.toml", "latin.toml:2: found byte 0xfc"),
    ):
        with pytest.raises(ConfigErrors, match=re.escape(said)):
            load(path)


def test_errors_can_be_sent_between_processes() -> None:
    """The supervisor hands the errors of a reload on: they survive pickling."""
    with pytest.raises(ConfigErrors) as caught:
        load_text("x = 1", "x")
    assert pickle.loads(pickle.dumps(caught.value)).errors == caught.value.errors


def test_hosts_file_names_are_own(tmp_path: Path) -> None:
    """Names that hosts(5) gives to this host's own addresses are its own; those of other addresses are not."""
    file = tmp_path / "hosts"
    file.write_text(
        "127.0.1.1 MX.example.com. mx # us\n127.0.0.7 other.example.com\n192.0.2.77 far.example.com\n::1 six\n"
    )
    names = own_names(file)
    assert {"mx.example.com", "mx", "six", "localhost"} <= names
    assert not {"other.example.com", "far.example.com", "us"} & names


def test_what_is_not_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known option that does not work yet is refused with the reason; another value of its key is not."""
    table = {("domains", "delivery", "dual"): "split", ("daemon", "workers", None): "leave it out"}
    monkeypatch.setattr("transport.config.load.NOT_YET", table)
    text = SQL + '[domains."example.com"]\nlocal = ["here"]\ndestination = "m365"\ndelivery = "split"\n'
    assert errors_of(text) == []
    assert errors_of("[daemon]\nworkers = 2\n" + text.replace('"split"', '"dual"')) == [
        "x.toml:2: [daemon] workers: found 2, which does not work yet; allowed: leave it out",
        'x.toml:13: [domains."example.com"] delivery: found "dual", which does not work yet; allowed: split',
    ]


def test_ten_thousand_domains() -> None:
    """A hosting provider's file loads, each domain on its own."""
    one = '[domains."d{}.example.com"]\nlocal = ["here"]\ndestination = "m365"\n'
    settings = load_text(SQL + "".join(one.format(n) for n in range(10_000)), "x")
    assert len(settings.domains) == 10_000
    assert len(settings.directories["here"].domains) == 10_000
