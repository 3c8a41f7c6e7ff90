# SPDX-License-Identifier: Apache-2.0
"""Passwords: they stand in files of their own, are read once, and never shown."""

from __future__ import annotations

import errno
import re
import stat
from pathlib import Path
from urllib.parse import quote

from transport.config import reading
from transport.config.errors import Wrong

_TOO_MUCH = 0o037  # write or execute for the group, anything for the others
_LONGEST = 4096  # octets; a longer file is no password
# SQLAlchemy's own reading of a URL: user up to the first colon, password up to the last @ before the host
_URL = re.compile(r"(?P<head>[a-z][a-z0-9_+]*://)(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?")


def check_file(path: Path) -> str:
    """The password in a file, its last line end removed. Raises Wrong when missing, empty or open to others."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise Wrong("a plain file", f"{path}: not a plain file")
        content = reading.read(path, _LONGEST, pipes=False)
    except FileNotFoundError:
        raise Wrong("a file that exists", f"{path}: no such file") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise Wrong(f"a password of at most {_LONGEST} bytes", f"{path}: more than that") from None
        raise Wrong("a file that can be read", f"{path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & _TOO_MUCH:
        raise Wrong(f"mode 0640 or stricter: chmod 0640 {path}", f"{path} with mode {stat.S_IMODE(mode):04o}")
    try:
        password = content.decode()
    except UnicodeDecodeError:
        raise Wrong("a password in UTF-8", f"{path}: not UTF-8") from None
    password = password.removesuffix("\n").removesuffix("\r")
    if not password or "\0" in password:
        raise Wrong("a file that holds the password alone", f"{path}: empty" if not password else f"{path}: NUL")
    return password


def user_and_password(url: str) -> tuple[str, str]:
    """The user and the password that stand in a SQLAlchemy URL; "" where they do not."""
    match = _URL.match(url)
    return (match["user"] or "", match["password"] or "") if match else ("", "")


def with_password(url: str, password: str) -> str:
    """The URL with this password, percent-encoded, behind its user."""
    match = _URL.match(url)
    if match is None or not match["user"]:
        return url
    return f"{match['head']}{match['user']}:{quote(password, safe='')}@{url[match.end() :]}"


def without_password(url: str) -> str:
    """The URL without any password."""
    match = _URL.match(url)
    if match is None or match["password"] is None:
        return url
    return f"{match['head']}{match['user']}@{url[match.end() :]}"
