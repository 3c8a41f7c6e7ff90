# SPDX-License-Identifier: Apache-2.0
"""The long form: every drill, `--times` over, with a table at the end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.chaos.drills import DRILLS
from tests.chaos.more import MORE
from tests.chaos.run import run
from tests.chaos.site import ChaosSite


def main() -> int:
    """Exit code 0 when nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the drills and end")
    parser.add_argument("--times", type=int, default=1, help="how often each drill runs (default 1)")
    parser.add_argument("--factor", type=int, default=5, help="how many times the short form's mails (default 5)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the daemon (default 2)")
    parser.add_argument("words", nargs="*", help="only drills whose name holds one of these")
    args = parser.parse_args()
    drills = [d for d in (*DRILLS, *MORE) if not args.words or any(word in d.name for word in args.words)]
    if args.list:
        print(*(d.name for d in drills), sep="\n")
        return 0
    todo: list[Callable[[], object]] = []
    wrong = 0
    try:
        site = ChaosSite(todo.append, workers=args.workers).install_all()
        for drill in drills * args.times:
            begun = time.monotonic()
            report = run(site, drill, args.factor)
            wrong += len(report.wrong)
            word, seconds = "WRONG" if report.wrong else "ok   ", time.monotonic() - begun
            print(f"{word} {drill.name}: {report.line()}; {seconds:.0f} s", flush=True)
            for line in report.wrong[:20]:
                print(f"        {line}", flush=True)
    finally:
        for action in reversed(todo):
            action()
    print(f"{wrong} wrong in {len(drills) * args.times} drills")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
