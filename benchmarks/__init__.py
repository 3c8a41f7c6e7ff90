# SPDX-License-Identifier: Apache-2.0
"""What the program costs, beside what the same work costs without it."""
