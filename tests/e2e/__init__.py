# SPDX-License-Identifier: Apache-2.0
"""End to end: a real Postfix, the real daemon, real directories."""
