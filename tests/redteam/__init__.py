# SPDX-License-Identifier: Apache-2.0
"""Cases that nobody wrote down: odd but legitimate settings, keys and clients."""
