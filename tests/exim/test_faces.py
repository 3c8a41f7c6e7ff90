# SPDX-License-Identifier: Apache-2.0
"""Exim's decisions equal the daemon's and the maps', for a whole population: live, from files, and from both."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.exim.configuration import toml
from tests.exim.people import Directory
from tests.exim.site import Site, exim_conf
from tests.mta.daemon import Splitmx
from tests.mta.exim import EximInstance
from tests.mta.places import new_folder
from tests.mta.sending import send
from tests.mta.waiting import wait_for
from transport.config.load import load_text

pytestmark = pytest.mark.e2e

Cleaned = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def population(site: Site) -> list[str]:
    """Some hundred addresses: listed ones, their extensions and cases, domain aliases, and strangers."""
    found = []
    for n in range(80):
        site.here.add(f"here{n}@example.com")
        site.there.add(f"there{n}@example.com")
        found += [
            f"here{n}@example.com",
            f"there{n}@example.com",
            f"Here{n}+x{n}@Example.com",
            f"there{n}+y@example.com",
        ]
        found += [f"there{n}@alias.example", f"stranger{n}@example.com"]
    for n in range(20):
        site.here.add(f"alias{n}@example.com", kind="alias", targets=f"here{n}@example.com there{n}@example.com")
        found += [f"alias{n}@example.com", f"alias{n}+tag@example.com"]
    names = ("ann", "bob", "carl", "sales", "zed", "ann+n", "bob+n", "sales+n", "postmaster", "info")
    domains = [d.name for d in site.settings.domains.values() if d.enabled == "yes"]
    found += [f"{name}@{domain}" for domain in domains if "verify" not in domain for name in names]
    special = (
        "moved stay two a.smith b.jones x.loop out keeps nested off withoff wave.past wave.future odd o'brien money"
    )
    found += [f"{name}@example.com" for name in (*special.split(), "a$b", "dead")]
    site.daemon.run("sync", check=True)
    wait_for(lambda: site.ask("alias19@example.com")["decision"] == "expand", 20)
    wait_for(lambda: site.ask("there79@example.com")["decision"] == "relay", 20)
    return found


def routed(text: str) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(address, ancestors, router or words) from `exim -bt`."""
    current, parents, last = "", [], ""
    for line in [*text.splitlines(), "end"]:
        if line.startswith("    <-- "):
            parents.append(line[8:])
        elif line.startswith("  "):
            found = re.match(r"\s+router = (\w+)", line)
            last = found[1] if found else last
        else:
            if current:
                yield current, tuple(parents), last
            head = re.match(
                r"(.*?)(?:\s+\[duplicate.*| is undeliverable: (.*)| cannot be resolved at this time: (.*))?$", line
            )
            assert head is not None
            current, parents = head[1], []
            last = "unknown" if head[2] is not None else "temp" if head[3] is not None else ""


def settled(exim: EximInstance, addresses: list[str]) -> set[tuple[str, tuple[str, ...], str]]:
    """How all are routed; what was put off (a live look-up on a busy machine) is asked again."""
    found: set[tuple[str, tuple[str, ...], str]] = set()
    waiting = addresses
    for _ in range(5):
        again: list[str] = []
        for at in range(0, len(waiting), 250):
            for one in routed(exim.route(*waiting[at : at + 250])):
                if one[2] == "temp":
                    again.append(one[0])
                found.add(one)
        if not again or set(again) == {"odd@example.com"}:
            break
        found = {one for one in found if one[2] != "temp"}
        waiting = again
    return found


def _copy_router(answer: dict[str, str]) -> str:
    """The router that ends the way of a copy: one with another envelope is routed as an address of its own."""
    return "splitmx_relay" if "envelope" in answer else "splitmx_copy_there"


def test_routing_equals_the_daemon(site: Site, population: list[str]) -> None:
    """For each address `exim -bt` takes the router that the daemon's decision names."""
    routers: dict[str, set[str]] = {}
    passed: dict[str, set[str]] = {}
    for address, parents, router in settled(site.exim, population):
        first = (parents[-1] if parents else address).lower()
        routers.setdefault(first, set()).add(router)
        passed.setdefault(first, set()).update(name.lower() for name in (address, *parents))
    wrong = []
    for address in population:
        answer = site.ask(address)
        seen = routers.get(address.lower(), set())
        word = answer["decision"]
        if word == "local":
            copies = {_copy_router(answer)} if answer.get("copy") == "relay" else set()
            good = seen - copies in ({"site_local"}, {"splitmx_store_lmtp"}) and copies <= seen
        elif word == "relay":
            good = seen == ({"splitmx_kept_relay", "splitmx_copy_lmtp"} if "copy" in answer else {"splitmx_relay"})
        elif word == "expand" and "targets" in answer:
            good = passed.get(address.lower(), set()) >= {target.lower() for target in answer["targets"].split(",")}
        elif word == "expand":
            good = bool(seen) and not seen & {"unknown", "temp"}
        else:
            good = seen == {"temp" if word == "temp" else "unknown"}
        if not good:
            wrong.append((address, answer, seen))
    assert not wrong, wrong[:5]


def test_answers_equal_the_maps(site: Site, population: list[str]) -> None:
    """The exim listener, `query` and `explain` tell the same for a sample of all."""
    words = {"local": "LOCAL", "relay": "RELAY", "expand": "EXPAND", "unknown": "UNKNOWN", "temp": "TEMP"}

    def agree(address: str) -> None:
        told = json.loads(site.daemon.run("explain", address, "--json").stdout)
        word = told["exim"]["decision"]
        # a busy machine may put a live look-up off once
        wait_for(lambda: site.ask(address)["decision"] == word, 10, (address, told))
        if word != "suspended":
            assert told["decision"] == words[word]

    for address in population[:: max(1, len(population) // 10)]:
        agree(address)


DUALS = ("dual.example", "dualtenant.example", "dualstrip.example", "dualboth.example", "dualquiet.example")


@pytest.mark.parametrize("map_type", ["cdb", "lsearch"])
def test_static_alone(site: Site, population: list[str], cleaned: Cleaned, map_type: str) -> None:
    """Files alone give the same routing as the daemon, extensions included, and need no daemon."""
    strict = ("example.com", "alias.example", "strip.example", "tenant-users.example", "quiet.example",
              "xn--bcher-kva.example", *DUALS)  # fmt: skip
    text = toml(site, only=strict).replace("[daemon]\nexim =", "[daemon]\n#")
    config = site.folder / f"static-{map_type}.toml"
    config.write_text(text)
    settings = load_text(text, str(config), site.folder)
    maps = site.folder / f"maps-{map_type}"
    done = site.daemon.run("--config", str(config), "build", "--for", "exim", "--output", str(maps), "--alone")
    assert done.returncode in (0, 1), done.stderr  # 1: odd@ has a location nobody knows, and is left out
    assert (maps / "exim_recipients.cdb").exists()
    conf = exim_conf(
        settings, store=site.store, outside=site.outside, deploy="static", maps=maps, map_type=map_type,
        socket="/nonexistent/exim.sock",
    )  # fmt: skip
    exim = EximInstance(conf, name="static")
    cleaned(exim.stop)
    odd = re.compile(r"odd@|postmaster@|info@|@dual|wave\.")
    names = [n for n in population if n.rpartition("@")[2].lower() in strict and not odd.search(n)]
    names += ["bob+x@strip.example", "bob+x@tenant-users.example", "keeps+x@example.com", '"jane doe"@example.com']
    names += ["bob@bücher.example", "ann@BÜCHER.Example"]
    names = names if map_type == "cdb" else names[::8]
    assert settled(site.exim, names) == settled(exim, names)
    copies = [f"{name}@{domain}" for domain in DUALS for name in ("ann", "ann+x", "bob+x", "sales", "sales+x")]
    assert sorted(routed(site.exim.route(*copies))) == sorted(routed(exim.route(*copies)))
    stripping = EximInstance("SPLITMX_STRIP_EXTENSION = yes\n" + conf, name="strip")
    cleaned(stripping.stop)
    assert sorted(routed(stripping.route("ann+x@example.com", "bob+x@example.com"))) == [
        ("ann@example.com", ("ann+x@example.com",), "site_local"), ("bob+x@example.com", (), "splitmx_relay")
    ]  # fmt: skip
    exim.start()
    sent = send(exim.ip, "o@outside.test", [f"ann+x@{domain}" for domain in DUALS])
    site.store.wait(sent.subject, *(f"ann+x@{domain}" for domain in DUALS))
    expected = ("ann+x@dual.example", "ann+x@tenant.example", "ann@dualstrip.example", "ann@strip-tenant.example")
    site.s.wait(sent.subject, *expected, "ann+x@quiet-tenant.example")
    quiet = send(exim.ip, "o@outside.test", ["bob@dualquiet.example", "bob@quiet.example"])
    mails = site.s.wait(quiet.subject, "bob@quiet-tenant.example", "bob@quiet.example")
    assert {mail.sender for mail in mails} == {"o@outside.test"}  # reports go to the postmaster, the sender stays


def test_both(site: Site, cleaned: Cleaned) -> None:
    """Files first, the daemon behind: with the daemon gone listed people are taken and delivered, strangers wait."""
    maps = site.folder / "maps-both"
    done = site.daemon.run("build", "--for", "exim", "--output", str(maps))
    assert done.returncode in (0, 1), done.stderr
    conf = exim_conf(
        site.settings, store=site.store, outside=site.outside, deploy="both", maps=maps,
        socket=str(site.folder / "gone.sock"),
    )  # fmt: skip
    exim = EximInstance(conf, name="both").start()
    cleaned(exim.stop)
    names = ["ann@example.com", "bob@example.com", "sales@example.com", "zed@example.com", "bob+x@example.com"]
    sent = send(exim.ip, "o@outside.test", names)
    assert list(sent.codes.values()) == [250, 250, 250, 451, 451]
    assert sent.data == 250
    site.store.wait(sent.subject, "ann@example.com")
    site.s.wait(sent.subject, "bob@example.com")
    peer = send(exim.ip, "o@outside.test", "ann@secondary.example", client=site.peer)
    assert peer.codes == {"ann@secondary.example": 451}
    off = send(exim.ip, "o@outside.test", "off@example.com")
    assert off.codes == {"off@example.com": 550}


def test_build_refuses(site: Site) -> None:
    """Files alone cannot verify, relay or catch strangers, nor end loops of a secondary: refused by name."""
    done = site.daemon.run("build", "--for", "exim", "--output", str(site.folder / "refused"), "--alone")
    assert done.returncode == 2
    for name in ("relay.example", "verify.example", "catchall.example", "match.example", "secondary.example"):
        assert name in done.stderr
    assert not (site.folder / "refused" / "exim_recipients").exists()


def test_build_again_changes_nothing(site: Site) -> None:
    """A second build writes nothing; --check tells what would change."""
    maps = site.folder / "maps-both"
    site.daemon.run("build", "--for", "exim", "--output", str(maps))
    before = (maps / "exim_recipients.cdb").stat().st_mtime_ns
    assert "nothing has changed" in site.daemon.run("build", "--for", "exim", "--output", str(maps)).stdout
    assert (maps / "exim_recipients.cdb").stat().st_mtime_ns == before
    site.here.add("brandnew@example.com")
    site.daemon.run("sync", check=True)
    wait_for(lambda: site.ask("brandnew@example.com")["decision"] == "local", 20)
    checked = site.daemon.run("build", "--for", "exim", "--output", str(maps), "--check")
    assert checked.returncode == 1
    assert "+brandnew@example.com: decision=local" in checked.stdout
    assert (maps / "exim_recipients.cdb").stat().st_mtime_ns == before


def test_the_daemon_keeps_the_files(site: Site, cleaned: Cleaned) -> None:
    """With [static] for = ["exim"] the daemon writes the files, and again after a change; no Postfix is needed."""
    folder = new_folder("eximstatic")
    cleaned(lambda: shutil.rmtree(folder, ignore_errors=True))
    people = Directory(folder / "people.db")
    people.add("ann@example.com")
    daemon = Splitmx(
        f"""
[daemon]
exim = ["unix:{folder}/exim.sock"]
control = "unix:{folder}/control.sock"
metrics = "unix:{folder}/metrics.sock"
state = "{folder}/state"
[static]
directory = "{folder}/maps"
for = ["exim"]
[directories.here]
{people.toml}
[destinations.s]
hosts = ["192.0.2.1"]
[domains."example.com"]
local = ["here"]
destination = "s"
unknown = "relay"
""",
        folder,
    ).start()
    cleaned(daemon.stop)
    text = folder / "maps" / "exim_recipients"
    wait_for(lambda: text.exists() and "ann@example.com: decision=local" in text.read_text(), 20, daemon.tail)
    people.add("bea@example.com")
    daemon.run("sync", check=True)
    wait_for(lambda: "bea@example.com: decision=local" in text.read_text(), 20, daemon.tail)
    assert text.with_name("exim_recipients.cdb").exists()
