# SPDX-License-Identifier: Apache-2.0
"""systemd/splitmx.service: what the daemon starts works inside the unit's sandbox."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from policyd import loop

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "splitmx.service"

# socket(2) of any family but argv[1]'s fails with EAFNOSUPPORT, as RestrictAddressFamilies= makes it fail
# (systemd.exec(5)); then argv[3:] runs. A classic BPF program (seccomp(2)) over struct seccomp_data: the number of
# the call at octet 0, its first argument at octet 16.
SANDBOX = """
import ctypes, os, socket, struct, sys
families = [getattr(socket, name) for name in sys.argv[1].split()]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 97
program = [(LOAD, 0, 0, 0), (EQUAL, 0, len(families) + 2, int(sys.argv[2])), (LOAD, 0, 0, 16)]
program += [(EQUAL, len(families) - place, 0, family) for place, family in enumerate(families)]
program += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
prctl = lambda *words: libc.prctl(*(ctypes.c_ulong(word) for word in words))
whole = Program(len(program), ctypes.addressof(code))
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, ctypes.addressof(whole), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execvp(sys.argv[3], sys.argv[3:])
"""
SOCKET = {"x86_64": 41, "aarch64": 198}
"""The number of socket(2)."""


def setting(name: str, unit: Path = UNIT) -> str:
    """The value of a setting of the unit."""
    [value] = [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{name}=")]
    return value


@pytest.mark.skipif(platform.machine() not in SOCKET, reason="the number of socket(2) is not known here")
def test_postmap_runs_under_the_unit(tmp_path: Path) -> None:
    """The keeper's postmap lives with the unit's address families: it looks at the host's interfaces by netlink."""
    if shutil.which("postmap") is None:
        pytest.skip("Postfix is not installed")
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    (tmp_path / "people").write_text("ann@example.com LOCAL\n")
    done = subprocess.run(
        [sys.executable, "-c", SANDBOX, setting("RestrictAddressFamilies"), str(SOCKET[platform.machine()]),
         "postmap", "-c", str(tmp_path), f"lmdb:{tmp_path}/people"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "people.lmdb").exists()


def test_mtas_start_later_and_stop_earlier() -> None:
    """The unit in which each MTA's processes run, not only a name for it (Debian's postfix.service), comes later."""
    assert {"postfix.service", "postfix@-.service", "exim4.service"} <= set(setting("Before").split())


def test_one_process_out_of_memory_ends_no_other() -> None:
    """systemd's default stops the whole unit; ours leaves a killed keeper or worker to the supervisor."""
    assert setting("OOMPolicy") == "continue"
    assert int(setting("OOMScoreAdjust")) < -500


def test_the_units_priority_is_the_one_that_the_keeper_gives_up() -> None:
    """Any other would be taken for the administrator's choice, and kept by all processes."""
    assert int(setting("Nice")) == loop.BEFORE


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_the_cpanel_drop_in_reads_accounts_of_others(tmp_path: Path) -> None:
    """With its capability another user reads what belongs to an account and to root, and writes nothing there."""
    unit = UNIT.with_name("splitmx-cpanel.conf")
    assert setting("ProtectHome", unit) == "read-only"
    assert setting("AmbientCapabilities", unit) == setting("CapabilityBoundingSet", unit)
    capability = "+" + setting("AmbientCapabilities", unit).lower().removeprefix("cap_")
    folder = tmp_path / "etc"
    folder.mkdir(0o700)
    (folder / "passwd").write_text("ann:x\n")
    (folder / "passwd").chmod(0o600)

    def run(*words: str) -> int:
        become = ["setpriv", "--reuid=nobody", "--clear-groups", f"--inh-caps={capability}"]
        return subprocess.run([*become, f"--ambient-caps={capability}", *words], capture_output=True).returncode

    assert run("cat", str(folder / "passwd")) == 0
    assert run("touch", str(folder / "passwd")) != 0
    assert run("touch", str(folder / "more")) != 0


@pytest.mark.parametrize(
    ("page", "count", "names"),
    [
        ("install.md", 5, {"splitmx.conf", "postfix.conf", "exim.conf"}),
        ("systemd.md", 5, {"splitmx.conf", "postfix.conf", "exim.conf"}),
        ("cpanel.md", 1, {"cpanel.conf"}),
    ],
)
def test_the_documented_commands_install_every_unit(tmp_path: Path, page: str, count: int, names: set[str]) -> None:
    """The lines that install units work on a host that has none of the folders, as a small Debian 12 is."""
    found = [
        line.strip().partition(" && ")[0].partition("  #")[0]
        for line in (UNIT.parents[1] / "docs" / page).read_text().splitlines()
        if line.startswith(("install ", "cp ")) and "splitmx" in line and " /root/" not in line
    ]  # fmt: skip
    assert len(found) == count
    for line in found:
        done = subprocess.run(
            line.replace(" /etc/", f" {tmp_path}/etc/"), shell=True, cwd=UNIT.parent, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.rglob("*.conf")} == names


def test_the_copies_that_are_put_back_are_from_before_splitmx() -> None:
    """Observing changes main.cf as well: the documented copy is taken before it, and no later one takes its place."""
    text = (UNIT.parents[1] / "docs" / "install.md").read_text()
    copies = [line for line in text.splitlines() if line.startswith("cp ") and "/etc/postfix/main.cf" in line]
    assert text.index(copies[0]) < text.index("\nsplitmx postfix show")
    assert all(line.startswith("cp -an ") for line in copies)
