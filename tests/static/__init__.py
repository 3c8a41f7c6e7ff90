# SPDX-License-Identifier: Apache-2.0
"""Static maps: what `build` writes, and that it agrees with every other face."""
