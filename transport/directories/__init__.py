# SPDX-License-Identifier: Apache-2.0
"""Directories: where recipients are listed. `open_source` is the way in; drivers are imported when used."""

from __future__ import annotations

from typing import assert_never

from transport.config.settings import Directory, FileOptions, LdapOptions, SqlOptions
from transport.directories.base import Source


def open_source(directory: Directory) -> Source:
    """A source for one thread. Nothing is connected or read before the first call of `list` or `ask`.

    Raises DirectoryError when its driver is not installed or the options cannot be used at all.
    """
    match directory.options:
        case SqlOptions() as options:
            from transport.directories.sql import SqlSource

            return SqlSource(directory.name, options)
        case LdapOptions() as options:
            from transport.directories.ldap import LdapSource

            return LdapSource(directory.name, options)
        case FileOptions() as options:
            from transport.directories.files import FileSource

            return FileSource(directory.name, options, directory.domains)
        case _:
            assert_never(directory.options)
