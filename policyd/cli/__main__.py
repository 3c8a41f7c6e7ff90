# SPDX-License-Identifier: Apache-2.0
"""`python -m policyd.cli`, for a checkout that is not installed."""

from __future__ import annotations

from policyd.cli import main

main(prog_name="splitmx")
