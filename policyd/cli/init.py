# SPDX-License-Identifier: Apache-2.0
"""`splitmx init`: a configuration to start with, for what is found on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD
from policyd.cli.common import Stop, config_option, examples, note, visible

if TYPE_CHECKING:
    from transport.config.settings import Settings

GROUP = "splitmx"
"""The daemon's, as systemd/splitmx.sysusers makes it."""

LOCAL_CLASSES = "mydestination, virtual_mailbox_domains and Exim's local_domains"
"""Where the MTA itself knows how to deliver to who is here."""


@click.command(
    epilog=examples(
        "splitmx init --domain example.com --sql sqlite:////var/lib/mail/users.db --host mx.example.net",
        "splitmx init --domain example.com --postfixadmin mysql+pymysql://splitmx@db/postfix --host mx.example.net",
        "splitmx init --domain example.com --ldap ldaps://ldap.example.com --base ou=people,dc=example,dc=com"
        " --host mx.example.net",
        "splitmx init --domain example.com --file /etc/splitmx/people.txt --host mx.example.net --print",
    )
)
@config_option
@click.option(
    "--domain", "domains", multiple=True, required=True, help="A domain to split; may be given several times."
)
@click.option("--sql", metavar="URL", help="Who is here: an SQLAlchemy URL; its query is to be adapted.")
@click.option("--postfixadmin", metavar="URL", help="Who is here: a PostfixAdmin database.")
@click.option("--ldap", metavar="URL", help="Who is here: an LDAP server; needs --base.")
@click.option("--base", default="", help="The LDAP search base.")
@click.option("--file", "list_file", metavar="PATH", help="Who is here: a file, one address a line.")
@click.option(
    "--host", "hosts", multiple=True, required=True, help="Where the others' mail goes: a host of the other side."
)
@click.option("--name", default="there", show_default=True, help="The destination's name.")
@click.option("--local-transport", default="", help="Where local mail goes, e.g. lmtp:unix:private/dovecot-lmtp.")
@click.option("--print", "to_stdout", is_flag=True, help="Print it, write nothing.")
@click.option("--force", is_flag=True, help="Overwrite an existing configuration; the old one is kept as FILE.old.")
def init(
    config: Path,
    domains: tuple[str, ...],
    sql: str | None,
    postfixadmin: str | None,
    ldap: str | None,
    base: str,
    list_file: str | None,
    hosts: tuple[str, ...],
    name: str,
    local_transport: str,
    to_stdout: bool,
    force: bool,
) -> int:
    """Write a configuration to start with, and try it.

    Each domain begins with enabled = "observe": nothing depends on splitmx until you set it to true.

    Exit codes: 0 written, 1 written, but a directory cannot be read yet or is empty, 2 usage.
    """
    directory = _directory(sql, postfixadmin, ldap, base, list_file)
    text = _text(tuple(dict.fromkeys(domains)), directory, hosts, name, local_transport)
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise Stop("what is given is no UTF-8")
    if to_stdout:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            _write(Path(folder) / "splitmx.toml", text)
        click.echo(text, nl=False)
        return EXIT_GOOD
    if config.exists() and not force:
        raise Stop(f"{config} exists", "--force replaces it and keeps it as .old, --print only shows the new one")
    settings = _write(config, text)
    click.echo(f"{config}: written")
    code = _try(settings)
    click.echo("next: splitmx check; then splitmx postfix show, or splitmx exim show")
    return code


def _directory(
    sql: str | None, postfixadmin: str | None, ldap: str | None, base: str, list_file: str | None
) -> list[str]:
    """The lines of `[directories.here]`."""
    given = [value for value in (sql, postfixadmin, ldap, list_file) if value]
    if len(given) != 1:
        raise Stop("say who is here by one of --sql, --postfixadmin, --ldap and --file")
    if postfixadmin:
        return ['type = "sql"', f"url = {_quoted(postfixadmin)}", 'schema = "postfixadmin"']
    if sql:
        query = "SELECT address, kind, targets, location, active FROM recipients"
        return ['type = "sql"', f"url = {_quoted(sql)}", f"query = {_quoted(query)}  # only address is required"]
    if ldap:
        if not base:
            raise Stop("--ldap needs --base", "for example --base ou=people,dc=example,dc=com")
        return [
            'type = "ldap"',
            f"url = [{_quoted(ldap)}]",
            f"base = {_quoted(base)}",
            'schema = "openldap"  # or active-directory, or filter and address_attributes',
            '# bind_dn = "cn=splitmx,dc=example,dc=com"',
            '# bind_password_file = "/etc/splitmx/ldap.secret"',
        ]
    assert list_file is not None
    return ['type = "file"', f"path = {_quoted(str(Path(list_file).absolute()))}", 'format = "list"']


def _text(
    domains: tuple[str, ...], directory: list[str], hosts: tuple[str, ...], name: str, local_transport: str
) -> str:
    from transport.config.errors import dotted

    lines = [
        "# splitmx: written by `splitmx init`. docs/configuration.md and contrib/splitmx.toml explain every key.",
        "",
        "[daemon]",
        *_listeners(),
        "",
        "[directories.here]  # who is on this side",
        *directory,
        "",
        f"[{dotted(('destinations', name))}]  # where the others' mail goes",
        f"hosts = [{', '.join(_quoted(host) for host in hosts)}]",
        'tls = "may"  # encrypt, ca, ca+name or dane ask for more',
        "",
    ]
    for domain in domains:
        lines += [
            f"[domains.{_quoted(domain)}]",
            'enabled = "observe"  # decides and logs only; true when `splitmx observe report` shows what you expect',
            'local = ["here"]',
            f"destination = {_quoted(name)}",
            'unknown = "verify"  # who is listed nowhere: ask the other side before accepting',
            f"local_transport = {_quoted(local_transport)}"
            + ("" if local_transport else f"  # empty: right in {LOCAL_CLASSES} only"),
            '# postmaster = "…"  # an address; mail for postmaster@ must always arrive somewhere',
            "",
        ]
    return "\n".join(lines)


def _listeners() -> list[str]:
    """Where this host's MTA asks: Postfix below its queue directory, an Exim alone in the unit's own folder."""
    queue = _postconf("queue_directory")
    if not queue and (shutil.which("exim4") or shutil.which("exim")):
        group = _exim_group()
        access = f"&group={group}" if group else ""
        return [f'exim = ["unix:/run/splitmx/exim.sock?mode=0660{access}"]', 'recipient_delimiter = "+"']
    access = "?mode=0660&group=postfix" if queue else ""
    delimiter = _postconf("recipient_delimiter") if queue else "+"  # a Postfix without one knows no extensions
    folder = f"{queue or '/var/spool/postfix'}/splitmx"
    return [
        f'socketmap = ["unix:{folder}/socketmap.sock{access}"]',
        f'policy    = ["unix:{folder}/policy.sock{access}"]',
        f"recipient_delimiter = {_quoted(delimiter)}  # as in main.cf",
    ]


def _exim_group() -> str:
    """The group of the user that Exim runs as, "" when none of the usual ones is known here."""
    import grp
    import pwd

    for user in ("Debian-exim", "mailnull", "exim"):
        try:
            return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
        except KeyError:
            continue
    return ""


def _quoted(text: str) -> str:
    """A TOML basic string."""
    import json

    return json.dumps(text, ensure_ascii=False)


def _postconf(name: str) -> str:
    """A setting of this host's Postfix, "" without one."""
    if shutil.which("postconf") is None:
        return ""
    try:
        run = subprocess.run(
            ["postconf", "-h", name], capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def _write(config: Path, text: str) -> Settings:
    """Check the text, then put it in place. Raises ConfigErrors, and nothing is written."""
    from transport.config.errors import ConfigErrors
    from transport.config.load import load

    config = config.resolve()  # of a symbolic link the file behind it is written
    config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = config.with_name(f".{config.name}.new")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        settings = load(aside)
        _give(aside, config)
        if config.exists():
            shutil.copy2(config, config.with_name(config.name + ".old"))
        aside.replace(config)
    except ConfigErrors as faults:
        # a line of a file that nobody will see helps nobody
        raise ConfigErrors([replace(fault, file="init", line=None) for fault in faults.errors]) from None
    finally:
        aside.unlink(missing_ok=True)
    return settings


def _give(aside: Path, config: Path) -> None:
    """Owner and mode of the file that it replaces; a new one, made by root, may be read by the daemon's group."""
    if config.exists():
        kept = config.stat()
        aside.chmod(kept.st_mode & 0o7777)
        if os.geteuid() == 0:
            os.chown(aside, kept.st_uid, kept.st_gid)
    elif os.geteuid() == 0:
        try:
            shutil.chown(aside, group=GROUP)
        except LookupError:
            pass  # there is no such group: whoever runs the daemon is told what to do


def _try(settings: Settings) -> int:
    """Read a little of each directory, and say what could be amiss."""
    from contextlib import closing

    from transport.directories import open_source
    from transport.directories.base import DirectoryError

    code = EXIT_GOOD
    for name, directory in settings.directories.items():
        try:
            source = open_source(directory)
            try:
                with closing(source.list()) as listing:
                    somebody = next(iter(listing.records), None)
            finally:
                source.close()
        except DirectoryError as fault:
            note(visible(f"directory {name} cannot be read yet: {fault}" + (f"; {fault.hint}" if fault.hint else "")))
            code = EXIT_FOUND
            continue
        if somebody is None:
            note(f"directory {name} lists nobody; if that is right for now: may_be_empty = true")
            code = EXIT_FOUND
    return code
