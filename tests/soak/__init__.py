# SPDX-License-Identifier: Apache-2.0
"""The soak: `python -m tests.soak --minutes 60`."""
