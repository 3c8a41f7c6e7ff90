# SPDX-License-Identifier: Apache-2.0
"""Mail servers for tests: private Postfix instances, recording SMTP and LMTP servers, the daemon itself."""
