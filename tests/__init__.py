# SPDX-License-Identifier: Apache-2.0
"""Tests; the folders mirror the packages, `e2e` drives real mail servers."""
