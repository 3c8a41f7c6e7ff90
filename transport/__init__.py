# SPDX-License-Identifier: Apache-2.0
"""Where a recipient's mail goes: addresses, directories, the index, the router, the maps.

Nothing in here listens on a socket, runs an event loop or starts a thread; `policyd` does, and imports this
package, never the reverse.
"""
