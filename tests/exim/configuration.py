# SPDX-License-Identifier: Apache-2.0
"""The configuration of the site with Exim: a domain for each option, a destination for each kind of next hop."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.exim.site import Site

Keys = dict[str, object]

TLS = ("none", "may", "encrypt", "plain", "untrusted", "ca", "wrong", "right", "dane")
HOPS = ("itself", "nowhere", "dead")


def toml(site: Site, only: Collection[str] = ()) -> str:
    """The whole file. only: with these domains alone, and without waves."""
    tables: dict[str, Keys] = {
        "daemon": {
            "exim": [f"unix:{site.folder}/exim.sock?mode=0666"],
            "control": f"unix:{site.folder}/control.sock",
            "metrics": f"unix:{site.folder}/metrics.sock",
            "state": f"{site.folder}/state",
        }
    }
    tables |= {f"destinations.{name}": keys for name, keys in destinations(site).items()}
    tables |= {f'domains."{name}"': keys for name, keys in domains(site).items() if not only or name in only}
    if not only:
        tables |= {f"waves.{name}": keys for name, keys in WAVES.items()}
    text = ""
    for heading, keys in tables.items():
        text += f"[{heading}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in keys.items())
    return f"{text}[directories.here]\n{site.here.toml}[directories.there]\n{site.there.toml}"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def destinations(site: Site) -> dict[str, Keys]:
    """Next hops: plain ones, with other envelopes, out of order, and one for each TLS policy."""
    host = site.s.host
    found: dict[str, Keys] = {
        "s": {"hosts": [host], "peers": [site.peer, f"listener:{site.ip}:2525"]},
        "cloud": {"hosts": [host], "peers": [site.cloud]},
        "primary": {"hosts": [host], "peers": [site.peer]},
        "several": {"hosts": [site.down, site.second.host]},
        "dead": {"hosts": [site.down]},
        "itself": {"hosts": [site.ip]},
        "nowhere": {"hosts": ["does-not-exist.invalid"]},
        "tenant": {"hosts": [host], "envelope": "tenant.example"},
        "strip": {"hosts": [host], "plus": "strip"},
        "quiet": {"hosts": [host], "bounce": "postmaster"},
        "tenant-quiet": {"hosts": [host], "envelope": "quiet-tenant.example", "bounce": "postmaster"},
        "tenant-strip": {"hosts": [host], "envelope": "strip-tenant.example", "plus": "strip"},
    }
    untrusted, wrong, right = site.self_signed.host, site.wrong_name.host, site.right_name.host
    for name, server, policy in (
        ("none", untrusted, "none"),
        ("may", untrusted, "may"),
        ("encrypt", untrusted, "encrypt"),
        ("plain", host, "encrypt"),
        ("untrusted", untrusted, "ca"),
        ("ca", wrong, "ca"),
        ("wrong", wrong, "ca+name"),
        ("right", right, "ca+name"),
        ("dane", right, "dane"),
    ):
        found[f"tls-{name}"] = {"hosts": [server], "tls": policy}
    return found


def split(destination: str = "s", unknown: str = "reject", **more: object) -> Keys:
    """A domain on both sides."""
    return {"local": ["here"], "remote": ["there"], "destination": destination, "unknown": unknown, **more}


def domains(site: Site) -> dict[str, Keys]:
    """Names of domains say what they show."""
    second = f"lmtp:[{site.store2.host}]:24"
    locations = {"moved": "s", "stay": "local", "store2": f"local:{second}"}
    locations |= {f"tls-{name}": f"tls-{name}" for name in TLS}
    locations |= {name: name for name in HOPS}
    return {
        "example.com": split(locations=locations, postmaster="ann@example.com"),
        "shared.example": split("cloud"),
        "alias.example": {"alias_of": "example.com"},
        "xn--bcher-kva.example": split(),
        "relay.example": split(unknown="relay", remote=[]),
        "verify.example": split(unknown="verify", remote=[]),
        "verifydead.example": split("dead", "verify"),
        "catchall.example": split(unknown="catchall:info@catchall.example"),
        "dual.example": split(delivery="dual"),
        "dualtenant.example": split("tenant", delivery="dual"),
        "dualstrip.example": split("strip", delivery="dual"),
        "dualboth.example": split("tenant-strip", delivery="dual"),
        "dualquiet.example": split("tenant-quiet", delivery="dual"),
        "all.example": split(delivery="all", local_transport=second),
        "tenant-users.example": split("tenant"),
        "strip.example": split("strip"),
        "quiet.example": split("quiet"),
        "several.example": split("several"),
        "subs.example": split(subdomains="strip"),
        "match.example": split(subdomains="match"),
        "few.example": split(group_members=False),
        "secondary.example": split("primary", "relay", role="secondary", outsiders="reject"),
        "peeronly.example": split("primary", "relay", role="secondary", outsiders="relay", peer_only=True),
        "off.example": split(enabled=False),
        "observed.example": split(enabled="observe"),
    }


def wave(at: str, address: str) -> Keys:
    """One address moves to the other side."""
    return {"at": at, "domain": "example.com", "to": "s", "addresses": [address]}


WAVES = {
    "past": wave("2020-01-01T00:00:00Z", "wave.past@example.com"),
    "future": wave("2099-01-01T00:00:00Z", "wave.future@example.com"),
}
