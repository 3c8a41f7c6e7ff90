# SPDX-License-Identifier: Apache-2.0
"""A bind DN whose password a server refuses is not sent there again and again: that would lock it.

Look-ups come as mail does. Servers count refused passwords (draft-behera-ldap-password-policy, Active Directory's
lockoutThreshold), and a locked account refuses the right password, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError

_INVALID = 49  # invalidCredentials: the password is wrong, or the account locked, disabled or unknown

_FIRST, _LAST = 30.0, 300.0  # seconds until the same password is tried again, ever longer

_Stamp = tuple[str, int]
"""A password, and when its file was written: touching the file is another try."""


class Account:
    """One bind DN at one server, shared by all threads: one binds at a time, so that all know when it was refused."""

    def __init__(self, password_file: str) -> None:
        self._file = password_file
        self._turn = Lock()
        self._refused: _Stamp | None = None
        self._fault = DirectoryError("")
        self._until = self._pause = 0.0

    def bind(self, password: str, seconds: float, connection: Any, judge: Callable[[], None]) -> None:
        """Bind `connection`, which has the password; while it stands as refused, raise that.

        judge: raises DirectoryError when the result says so. Raises that, TimeoutError after so many seconds of waiting
        for others, and what ldap3 raises.
        """
        stamp = password, self._written()
        if not self._turn.acquire(timeout=max(0.001, seconds)):
            raise TimeoutError
        try:
            if stamp == self._refused and monotonic() < self._until:
                raise DirectoryError(self._fault.what, self._fault.hint)
            connection.bind(read_server_info=False)
            try:
                judge()
            except DirectoryError as fault:
                raise self._refusal(stamp, fault) if connection.result["result"] == _INVALID else fault from None
            self._refused = None
        finally:
            self._turn.release()

    def _written(self) -> int:
        """When the password's file was written, in nanoseconds since 1970; 0 without one."""
        try:
            return Path(self._file).stat().st_mtime_ns if self._file else 0
        except OSError:
            return 0

    def _refusal(self, stamp: _Stamp, fault: DirectoryError) -> DirectoryError:
        """This password was refused; the fault, which says when it is tried again."""
        self._pause = min(_LAST, self._pause * 2) if stamp == self._refused else _FIRST
        self._refused, self._until = stamp, monotonic() + self._pause
        again = f"lest the account be locked, it is tried again in {self._pause:.0f} s, or when the file is written"
        self._fault = DirectoryError(fault.what, f"{fault.hint}; {again}")
        return self._fault


_accounts: dict[tuple[str, str, str], Account] = {}


def account_of(url: str, options: LdapOptions) -> Account:
    """That of a directory at one of its servers, in this process."""
    which = url, options.bind_dn, options.bind_password_file
    return _accounts.setdefault(which, Account(options.bind_password_file))
