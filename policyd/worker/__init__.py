# SPDX-License-Identifier: Apache-2.0
"""A worker: answers MTAs from the index, without a thread, without waiting, without a slow import."""
