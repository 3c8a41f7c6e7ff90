# SPDX-License-Identifier: Apache-2.0
"""`splitmx exim show` and `splitmx exim check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD
from policyd.cli.common import Stop, config_option, examples, json_option, note, print_json

if TYPE_CHECKING:
    from transport.config.settings import Settings

KIND = click.Choice(["plain", "debian", "cpanel"])
DEPLOY = click.Choice(["live", "static", "both"])


@click.group(epilog=examples("splitmx exim show", "splitmx exim check"))
def exim() -> None:
    """Show the texts that Exim needs, or check those that it has."""


maps_option = click.option(
    "--maps", metavar="DIR", help="Where `build --for exim` writes; default: [static] directory, else STATE/maps."
)


@exim.command(
    epilog=examples(
        "splitmx exim show",
        "splitmx exim show --kind debian --output /etc/exim4/conf.d",
        "splitmx exim show --kind cpanel --part local",
        "splitmx exim show --deploy both --part main",
    )
)
@config_option
@json_option
@click.option(
    "--kind", type=KIND, default="plain", help="plain: one exim.conf; debian: conf.d; cpanel: exim.conf.local."
)
@click.option("--deploy", type=DEPLOY, default=None, help="default: both with exim in [static] for, else live.")
@maps_option
@click.option("--type", "map_type", type=click.Choice(["cdb", "lsearch"]), default="cdb", help="Type of the files.")
@click.option("--part", help="Only one part: main, acl, routers, transports; cpanel: local, acl.")
@click.option("--output", metavar="DIR", help="Write the parts into this folder instead of printing them.")
def show(
    config: Path,
    as_json: bool,
    kind: str,
    deploy: str | None,
    maps: str | None,
    map_type: str,
    part: str | None,
    output: str | None,
) -> int:
    """Print the texts for this configuration: macros and domain lists, ACL statements, routers, transports.

    With --output they are written as files; debian: into main, acl, router and transport below that folder.
    Exim's own files are never touched. Ends with 1 when something makes it impossible; the text says what.
    """
    from transport.config.load import load
    from transport.mta.exim_plan import plan, render

    settings = load(config)
    result = plan(settings, kind, _deploy(settings, deploy), _maps(settings, maps), map_type=map_type)
    files = render(result)
    if part is not None and part not in files:
        raise Stop(f"there is no part {part!r}", f"parts are {', '.join(files)}")
    chosen = {part: files[part]} if part else files
    places = {p.name: p.place for p in result.parts}
    if as_json:
        print_json(
            {
                "kind": kind, "deploy": result.deploy, "problems": result.problems, "notes": result.notes,
                "parts": {name: {"place": places.get(name, ""), "text": body} for name, body in chosen.items()},
            }
        )  # fmt: skip
    elif output:
        for name, body in chosen.items():
            path = Path(output) / _FILES[kind].get(name, f"splitmx-{name}.conf")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body)
            click.echo(f"{path}: {places.get(name, 'exim.conf.local: put its sections below those markers')}")
    else:
        for name, body in chosen.items():
            if not part:
                click.echo(f"# ---- {name}: {places.get(name, 'sections of /etc/exim.conf.local')}")
            click.echo(body, nl=not body.endswith("\n"))
    for line in result.problems:
        note(f"not possible: {line}")
    if not as_json:
        for line in result.notes:
            note(line)
    return EXIT_FOUND if result.problems else EXIT_GOOD


_FILES: dict[str, dict[str, str]] = {
    "plain": {},
    "debian": {
        "main": "main/000_splitmx",
        "acl": "acl/25_splitmx",
        "routers": "router/120_splitmx",
        "transports": "transport/25_splitmx",
    },
    "cpanel": {"acl": "custom_begin_recipient", "local": "exim.conf.local.splitmx"},
}


def _deploy(settings: Settings, deploy: str | None) -> str:
    static = settings.static
    return deploy or ("both" if static is not None and "exim" in static.for_ else "live")


def _maps(settings: Settings, maps: str | None) -> Path:
    if maps:
        return Path(maps).absolute()
    static = settings.static
    if static is not None:
        return Path(static.directory)
    return settings.daemon.state / "maps"


@exim.command(
    epilog=examples("splitmx exim check", "splitmx exim check --exim /usr/sbin/exim --exim-config /etc/exim.conf")
)
@config_option
@json_option
@click.option("--exim", "binary", default="", metavar="FILE", help="The program; else exim4 or exim of the PATH.")
@click.option("--exim-config", "conf", metavar="FILE", help="Its configuration file; else its own default.")
@click.option("--deploy", type=DEPLOY, default=None, help="How Exim asks; else as it is configured.")
@maps_option
def check(config: Path, as_json: bool, binary: str, conf: str | None, deploy: str | None, maps: str | None) -> int:
    """Compare a living Exim with what it needs, and name what differs or will hurt. Ends with 1 then."""
    from transport.checks.exim import findings
    from transport.config.load import load
    from transport.mta.exim import EximError, read

    settings = load(config)
    try:
        found = read(binary, Path(conf) if conf else None)
        result = findings(settings, found, deploy or "", _maps(settings, maps))
    except EximError as fault:
        raise Stop(str(fault), "name the program with --exim, its configuration with --exim-config") from fault
    serious = [f for f in result if f.level != "note"]
    if as_json:
        from dataclasses import asdict

        print_json({"findings": [asdict(f) for f in result]})
    else:
        for finding in result:
            click.echo(f"{finding.level}: {finding.text}")
            if finding.hint:
                click.echo(f"    {finding.hint}")
        if not serious:
            version = ".".join(str(n) for n in found.version)
            enabled = sum(domain.enabled == "yes" for domain in settings.domains.values())
            click.echo(f"Exim {version} is set up for {enabled} domains")
    return EXIT_FOUND if serious else EXIT_GOOD
