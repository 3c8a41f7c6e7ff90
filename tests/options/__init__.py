# SPDX-License-Identifier: Apache-2.0
"""Every delivery option on a real Postfix, named by the rows of docs/requirements.md."""
