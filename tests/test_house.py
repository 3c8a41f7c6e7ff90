# SPDX-License-Identifier: Apache-2.0
"""The house rules of docs/design: who may import whom, read off the source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("transport", "policyd")

PURE = (
    "transport.address",
    "transport.answerer",
    "transport.client",
    "transport.config.settings",
    "transport.decision",
    "transport.expansion",
    "transport.explain",
    "transport.knowledge",
    "transport.names",
    "transport.record",
    "transport.router",
    "transport.unlisted",
    "policyd.protocols.exim",
    "policyd.protocols.policy",
    "policyd.protocols.socketmap",
    "policyd.protocols.tcp_table",
)
IO_MODULES = {
    "asyncio", "http", "io", "multiprocessing", "os", "select", "selectors", "shutil", "socket", "sqlite3",
    "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "uvloop",
}  # fmt: skip
HEAVY = {"click", "dns", "ldap3", "prometheus_client", "pydantic", "rich", "sqlalchemy"}


def path_of(module: str) -> Path | None:
    """The source of a module of ours."""
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def imports(module: str) -> frozenset[str]:
    """Modules that `module` imports when it is imported itself (not inside functions or for types alone)."""
    path = path_of(module)
    assert path is not None, module
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
                found.update(name for alias in node.names if path_of(name := f"{node.module}.{alias.name}") is not None)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
            else:
                for field in ("body", "orelse", "finalbody"):
                    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                        visit([n for n in getattr(node, field, []) if isinstance(n, ast.stmt)])
                for handler in getattr(node, "handlers", []):
                    visit(handler.body)

    visit(ast.parse(path.read_text()).body)
    return frozenset(found)


def ours() -> list[str]:
    """Every module of both packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def closure(module: str) -> set[str]:
    """Everything that importing `module` imports, packages' __init__ included."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.split(".")[0] in PACKAGES and path_of(name) is not None:
            parts = name.split(".")
            waiting.extend(".".join(parts[:n]) for n in range(1, len(parts)))
            waiting.extend(imports(name))
    return seen


def test_transport_never_imports_policyd() -> None:
    """The daemon knows the router; the router does not know the daemon."""
    wrong = [m for m in ours() if m.startswith("transport") and any(i.split(".")[0] == "policyd" for i in imports(m))]
    assert wrong == []


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_io(module: str) -> None:
    """What decides and what parses reaches no socket, file, clock or thread."""
    reached = {name.split(".")[0] for name in closure(module)}
    assert not reached & IO_MODULES
    assert not reached & HEAVY


def test_worker_stays_light() -> None:
    """What a worker imports holds no directory driver and no configuration model."""
    reached = {name.split(".")[0] for name in closure("policyd.worker")}
    assert not reached & HEAVY


def test_command_line_opens_light() -> None:
    """`splitmx --help` imports click and the standard library only."""
    reached = {name.split(".")[0] for name in closure("policyd.cli")}
    assert not reached & (HEAVY - {"click"})


def test_files_stay_short() -> None:
    """A module that grows past 450 lines holds a second thing."""
    long = [str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*.py")
            if len(p.read_text().splitlines()) > 450]  # fmt: skip
    assert long == []
