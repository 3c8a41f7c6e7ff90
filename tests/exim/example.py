# SPDX-License-Identifier: Apache-2.0
"""The configuration behind contrib/exim, and its files: `python -m tests.exim.example` writes them anew."""

from __future__ import annotations

from pathlib import Path

from transport.config.settings import Daemon, Destination, Domain, Listener, Settings
from transport.mta.exim_plan import plan, render

CONTRIB = Path(__file__).resolve().parent.parent.parent / "contrib" / "exim"

FILES = {
    "plain": {name: f"plain/splitmx-{name}.conf" for name in ("main", "acl", "routers", "transports")},
    "debian": {
        "main": "debian/conf.d/main/000_splitmx",
        "acl": "debian/conf.d/acl/25_splitmx",
        "routers": "debian/conf.d/router/120_splitmx",
        "transports": "debian/conf.d/transport/25_splitmx",
    },
    "cpanel": {"acl": "cpanel/custom_begin_recipient", "local": "cpanel/exim.conf.local"},
}


def settings() -> Settings:
    """One split domain, as docs/exim.md has it."""
    return Settings(
        daemon=Daemon(exim=(Listener("unix", "/run/splitmx/exim.sock", 0o660, "Debian-exim"),)),
        destinations={"cloud": Destination("cloud", hosts=("example-com.mail.protection.outlook.com",))},
        domains={"example.com": Domain("example.com", local=("here",), destination="cloud")},
    )


def files() -> dict[str, str]:
    """Path below contrib/exim -> text."""
    found = {}
    for kind, names in FILES.items():
        for part, text in render(plan(settings(), kind)).items():
            found[names[part]] = text if text.endswith("\n") else text + "\n"
    return found


if __name__ == "__main__":
    for name, text in files().items():
        (CONTRIB / name).parent.mkdir(parents=True, exist_ok=True)
        (CONTRIB / name).write_text(text)
