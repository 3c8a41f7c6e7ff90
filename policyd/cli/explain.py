# SPDX-License-Identifier: Apache-2.0
"""`splitmx explain ADDRESS`: where its mail goes, by which rule, and what each map says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from policyd.cli import EXIT_GOOD, EXIT_LATER
from policyd.cli.common import Stop, config_option, examples, json_option, note, print_json, visible
from policyd.cli.query import MAPS


@click.command(
    epilog=examples(
        "splitmx explain bob@example.com",
        "splitmx explain bob@example.com --from 203.0.113.9 --sender ann@example.net",
        "splitmx explain bob@example.com --at 2026-12-01T12:00:00Z",
        "splitmx explain --json bob@example.com",
    )
)
@config_option
@json_option
@click.argument("address")
@click.option("--from", "client", metavar="IP", help="Judge it as mail from this client.")
@click.option("--sender", metavar="ADDRESS", help="The envelope sender; '<>' for a bounce.")
@click.option("--listener", metavar="IP:PORT", help="The address and port of ours that took the connection.")
@click.option("--outsider", is_flag=True, help="The client is neither in mynetworks nor logged in.")
@click.option("--at", "at", metavar="TIME", help="Decide as at this time (RFC 3339): before or after a wave.")
def explain(
    config: Path,
    as_json: bool,
    address: str,
    client: str | None,
    sender: str | None,
    listener: str | None,
    outsider: bool,
    at: str | None,
) -> int:
    """Say where an address's mail goes, and why.

    Prints the decision, the rule behind it, what the directories list and how old that is, the answer of every map
    and what the policy service says. The running daemon is asked; where there is none, the answer is made here, and
    stderr says so.

    Exit codes: 0 decided, 75 the decision is TEMP.
    """
    if not address.strip():
        raise Stop("the address is empty")
    attributes = _attributes(client, sender, listener, outsider)
    report = _report(config, address, attributes, _time(at))
    report.setdefault("maps", {name: {"status": "NOTFOUND", "value": ""} for name in MAPS[:5]})
    if as_json:
        print_json(report)
    else:
        for line in _lines(report):
            click.echo(visible(line))
    return EXIT_LATER if report.get("decision") == "TEMP" else EXIT_GOOD


def _attributes(client: str | None, sender: str | None, listener: str | None, outsider: bool) -> dict[str, str]:
    """The policy delegation attributes of the client to be judged."""
    found: dict[str, str] = {}
    if client:
        from ipaddress import ip_address

        try:
            found["client_address"] = str(ip_address(client.strip("[]")))
        except ValueError:
            raise Stop(f"--from {client!r} is not an IP address") from None
    # without a sender the mail is somebody's, not a bounce
    found["sender"] = "someone@invalid" if sender is None else sender.strip("<>")
    if listener:
        from ipaddress import ip_address

        host, _, port = listener.rpartition(":")
        try:
            host = str(ip_address(host.strip("[]")))
            good = 0 < int(port) < 65536
        except ValueError:
            good = False
        if not good:
            raise Stop(f"--listener {listener!r} is not IP:PORT", "for IPv6: [2001:db8::1]:25")
        found["server_address"], found["server_port"] = host, port
    if outsider:
        found["policy_context"] = "outsider"
    return found


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    from datetime import UTC, datetime

    try:
        when = datetime.fromisoformat(text.replace("z", "Z"))
    except ValueError:
        raise Stop(f"--at {text!r} is not a time", "for example 2026-12-01T12:00:00Z") from None
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp()


def _report(config: Path, address: str, attributes: dict[str, str], at: float | None) -> dict[str, Any]:
    from policyd.cli.control import NoDaemonError, call

    try:
        answer = call(config, "explain", address=address, client=attributes, at=at)
        return {**answer["report"], "source": "daemon"}
    except NoDaemonError as error:
        note(f"no daemon ({error}): answering from the directories themselves")
    from policyd.cli.alone import Alone

    with Alone(config) as here:
        report = here.explain(address, attributes, at)
        for fault in here.faults:
            note(fault)
        return report


_DETAILS = (
    ("domain", "domain"),
    ("destination", "destination"),
    ("directory", "directory"),
    ("local_transport", "store"),
    ("targets", "targets"),
    ("left_out", "left out"),
    ("copy", "copy"),
)
_FLAGS = ("observed", "suspended", "verify", "catchall")


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield str(report.get("address", ""))
    yield f"  decision    {report.get('decision', '?')}"
    yield f"  reason      {report.get('reason', '')}"
    for key, title in _DETAILS:
        value = report.get(key)
        if key == "local_transport" and report.get("decision") == "RELAY" and report.get("copy") != "all":
            continue  # the store has no part in it
        if value:
            yield f"  {title:<11} {', '.join(value) if isinstance(value, list) else value}"
    flags = [name for name in _FLAGS if report.get(name)]
    if flags:
        yield f"  marked      {', '.join(flags)}"
    if report.get("changes_at"):
        yield f"  changes at  {_when(report['changes_at'])}"
    records = report.get("records") or []
    if records:
        yield "  records"
    for record in records:
        words = [record["kind"], "active" if record["active"] else "suspended"]
        if record.get("location"):
            words.append(f"location {record['location']}")
        if record.get("targets"):
            words.append(f"{record['targets']} targets")
        if record.get("live"):
            words.append("just asked")
        yield f"    {record['directory']}: {record['address']} ({', '.join(words)})"
    yield from _ages(report.get("directories") or [])
    maps = report.get("maps") or {}
    if maps:
        yield "  maps"
    for name, answer in maps.items():
        value = answer["value"] if answer["status"] == "OK" else f"{answer['status']} {answer['value']}".rstrip()
        yield f"    {name:<17} {value}"
    if report.get("policy"):
        yield f"  policy      {report['policy']}"
    if report.get("exim"):
        yield f"  exim        {' '.join(f'{key}={value}' for key, value in report['exim'].items())}"
    for finding in report.get("findings") or []:
        yield f"  finding     {finding}"


def _ages(directories: list[dict[str, Any]]) -> Iterator[str]:
    if directories:
        yield "  directories"
    for entry in directories:
        age = entry.get("age")
        state = "not loaded" if not entry.get("loaded") else "loaded" if age is None else f"read {age:.0f} s ago"
        why = f"; this domain could not be read: {entry['unread']}" if entry.get("unread") else ""
        yield f"    {entry.get('name')}: {state}, {entry.get('rows', 0)} recipients{why}"


def _when(moment: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
