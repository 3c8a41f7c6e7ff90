# SPDX-License-Identifier: Apache-2.0
"""The daemon beside the MTA and the command line: protocols, processes, listeners."""
