# SPDX-License-Identifier: Apache-2.0
"""Drills: a real Postfix with a steady flow of mails whose right place is known, while something breaks.

Short form: `tests/chaos/test_short.py`, part of the test run. Long form: `python -m tests.chaos` from the project's
root, as root, with the test packages installed; `python -m tests.chaos --list` names the drills.
"""
