# SPDX-License-Identifier: Apache-2.0
"""Run drills one after the other on one site."""

from __future__ import annotations

from tests.chaos.drills import Drill
from tests.chaos.flow import FOREIGN, HERE, NOWHERE, THERE, Flow, Report
from tests.chaos.site import PEOPLE, ChaosSite
from tests.mta.waiting import wait_for


def run(site: ChaosSite, drill: Drill, factor: int = 1) -> Report:
    """One drill: flow, break, flow, mend, flow; then everything has to be in its place."""
    for server in (site.store, site.secondary, site.world):
        server.mails.clear()
    flow = Flow(site, PEOPLE)
    try:
        flow.more(10)
        drill.breaks(site)
        flow.more(drill.letters * factor)
        drill.mends(site)
        flow.more(20)
    finally:
        report = flow.end()
    if drill.known:
        late = report.deferred[HERE] + report.deferred[THERE]
        if late:
            report.wrong.append(f"{late} mails for listed recipients were put off")
    if drill.strangers_wait and not report.deferred[NOWHERE]:
        report.wrong.append("no stranger was put off: the drill broke nothing")
    if report.deferred[FOREIGN]:
        report.wrong.append(f"{report.deferred[FOREIGN]} mails for other domains were put off")
    if report.slowest.get(FOREIGN, 0.0) > drill.foreign:
        report.wrong.append(f"mail for other domains waited {report.slowest[FOREIGN]:.1f} s")
    settle(site)
    return report


def settle(site: ChaosSite) -> None:
    """Wait until every directory is believed again, so that the next drill begins on sound ground."""
    wait_for(
        lambda: site.splitmx.run("query", "relay_recipients", "nobody@example.com").returncode == 1,
        60,
        site.splitmx.tail,
    )
