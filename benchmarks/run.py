# SPDX-License-Identifier: Apache-2.0
"""Measure what splitmx must reach, each row beside its floor in the same run: `python benchmarks/run.py
[ROW…]`.

Rates are compared as ratios of neighbouring rounds, and CPU time per answer is counted over all processes of
the daemon, since the load generator itself can be the limit. Daemon and load have a core each. Prints a
table; ends with 1 when a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ldap_rows, postfix_row, rows, sql_rows
from benchmarks.tools import Bench, Result

ROWS: dict[str, Callable[[Bench], list[Result]]] = {
    "rates": rows.rates,
    "workers": rows.workers,
    "start": rows.start,
    "query": rows.query,
    "compare": rows.compare,
    "static": rows.static,
    "postmap": ldap_rows.postmap,
    "misses": ldap_rows.misses,
    "strangers": ldap_rows.strangers,
    "hung": ldap_rows.hung,
    "databases": sql_rows.databases,
    "postfix": postfix_row.postfix,
}
PREPARED = {"rates", "workers", "start", "query", "compare", "static"}


def main() -> int:
    """Run the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--size", type=int, default=1_000_000, help="recipients in the large directory")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--nice", type=int, default=0, help="priority of all that is measured; -20 needs root")
    parser.add_argument("--realtime", action="store_true", help="for latencies on a machine that others use, too")
    options = parser.parse_args()
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    if options.nice:
        os.nice(options.nice)
        group = Path("/proc/self/autogroup")  # sched(7): without it, nice counts only within our own session
        if group.exists():
            group.write_text(str(options.nice))
    wanted = options.rows or list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    work = Path(tempfile.mkdtemp(prefix="splitmx-bench-", dir="/var/tmp"))
    work.chmod(0o755)
    bench = Bench(work, options.size, options.seconds, options.rounds)
    results: list[Result] = []
    try:
        if PREPARED & set(wanted):
            rows.prepare(bench)
        for name in wanted:
            began = time.monotonic()
            print(f"{name} …", file=sys.stderr)
            try:
                found = ROWS[name](bench)
            except Exception as error:
                found = [Result(name, f"failed: {type(error).__name__}: {error}", "", "", "", False)]
            for one in found:
                print(f"  {one.name}: {one.ours} | {one.beside} | {one.ratio}", file=sys.stderr)
            print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
            results += found
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("| what | splitmx | beside | ratio | goal | met |\n|---|---|---|---|---|---|")
    for one in results:
        met = {True: "yes", False: "no", None: "–"}[one.met]
        print(f"| {one.name} | {one.ours} | {one.beside} | {one.ratio} | {one.goal} | {met} |")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in results], indent=1, ensure_ascii=False))
    return 1 if any(one.met is False for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
