# SPDX-License-Identifier: Apache-2.0
"""Our own modules as they were when the daemon started, for whatever is imported later.

pip exchanges the files below a running daemon, and part of our code is imported only when it is needed: the whole
keeper, whenever one is started. Out of the new files it would meet modules of the old ones that it shares with the
workers, and an index of another format, which it would then rebuild for as long as it runs.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

_PACKAGES = ("policyd", "transport")
_COMMANDS = "policyd.cli"  # no part of the daemon
_HEADER = 16  # octets before the code in a .pyc: magic, flags, mtime, size (PEP 552)


class _Module(NamedTuple):
    path: str
    package: bool
    source: bytes  # b"" where `compiled` stands for it
    compiled: bytes  # what marshal reads


class _Loader(SourceFileLoader):
    """Runs what was kept, whatever stands in the file by now."""

    def __init__(self, name: str, module: _Module) -> None:
        super().__init__(name, module.path)
        self._module = module

    def get_code(self, fullname: str) -> CodeType:
        """The code as it was."""
        if self._module.compiled:
            code: CodeType = marshal.loads(self._module.compiled)  # noqa: S302  what Python itself would have read
            return code
        return self.source_to_code(self._module.source, self._module.path)


class _Finder(MetaPathFinder):
    def __init__(self, modules: dict[str, _Module]) -> None:
        self.modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where `fullname` comes from, if it is one of ours."""
        module = self.modules.get(fullname)
        if module is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname,
            module.path,
            loader=_Loader(fullname, module),
            submodule_search_locations=[str(Path(module.path).parent)] if module.package else None,
        )


def keep() -> None:
    """From now on imports of our modules, here and in processes that are forked from here, give what they are now.

    A few milliseconds and 2 MB. What cannot be read is imported as usual.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(dict(_modules())))


def _modules() -> Iterator[tuple[str, _Module]]:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            top = Path(folder)
            for file in top.rglob("*.py"):
                words = [package, *file.relative_to(top).with_suffix("").parts]
                name = ".".join(words[:-1] if words[-1] == "__init__" else words)
                if name in sys.modules or name.startswith(_COMMANDS):
                    continue
                try:
                    yield name, _read(file)
                except OSError:
                    continue


def _read(file: Path) -> _Module:
    """The compiled form where Python would take it, too, else the source. Raises OSError."""
    package = file.name == "__init__.py"
    status = file.stat()
    try:
        cached = Path(importlib.util.cache_from_source(str(file))).read_bytes()
    except (OSError, NotImplementedError):  # not there, or Python is told to keep none (sys.implementation.cache_tag)
        cached = b""
    stamp = b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in (0, int(status.st_mtime), status.st_size))
    if cached[:_HEADER] == importlib.util.MAGIC_NUMBER + stamp:
        return _Module(str(file), package, b"", cached[_HEADER:])
    return _Module(str(file), package, file.read_bytes(), b"")
