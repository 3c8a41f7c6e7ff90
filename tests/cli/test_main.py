# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole: help, exit codes, imports, faults."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from policyd.cli import COMMANDS, main, query
from policyd.cli.common import visible
from transport.answerer import MAPS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"pydantic", "sqlalchemy", "ldap3", "rich", "dns", "prometheus_client", "uvloop", "asyncio"}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`splitmx` in a process of its own, away from the sources."""
    return subprocess.run(
        [sys.executable, "-I", "-c", "from policyd.cli import main; main()", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env=os.environ | environment,
    )


def modules_after(*words: str) -> set[str]:
    """Top-level packages that a command has imported when it ends."""
    code = (
        "import sys\nfrom policyd.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print('\\nMODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert "MODULES" in done.stdout, done.stderr
    return set(done.stdout.partition("MODULES")[2].split())


def test_help_imports_nothing_but_click() -> None:
    """`splitmx --help` needs no command's module."""
    found = modules_after("--help")
    assert "click" in found
    assert not found & (HEAVY | {"transport", "sqlite3", "socket"})


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    """Each command, and each below it, explains itself."""
    pending = [[name]]
    while pending:
        words = pending.pop()
        result = CliRunner().invoke(main, [*words, "--help"], prog_name="splitmx")
        assert result.exit_code == 0, result.output
        below = re.search(r"^Commands:\n((?:  .*\n?)+)", result.output, re.MULTILINE)
        if below:
            pending += [[*words, line.split()[0]] for line in below[1].splitlines() if not line.startswith("   ")]
        else:
            assert "EXAMPLES" in result.output
            assert f"splitmx {' '.join(words)}" in result.output


def test_help_names_every_command() -> None:
    """The list in `--help`, the manual page and the README are complete."""
    said = run("--help").stdout
    manual = (ROOT / "docs/man/splitmx.1").read_text()
    readme = (ROOT / "README.md").read_text()
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", said, re.MULTILINE)
        assert re.search(rf'^\.(B|BR) "?{name}\b', manual, re.MULTILINE), name
        assert f"`{name}" in readme


def options(command: click.Command) -> set[str]:
    """The long options of a command and of those below it."""
    found = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        found |= options(below)
    return {name for name in found if name.startswith("--")}


def test_the_manual_page_names_every_option() -> None:
    """A stranger looks there first."""
    manual = (ROOT / "docs/man/splitmx.1").read_text().replace("\\-", "-")
    paragraphs = re.split(r"^\.TP\n", manual, flags=re.MULTILINE)
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        said = "".join(text for text in paragraphs if re.match(rf'\.(B|BR) "?{name}\b', text))
        missing = {option for option in options(command) - {"--json", "--config"} if option not in said}
        assert not missing, (name, missing)


def test_all_of_contrib_is_installed() -> None:
    """docs/install.md says where it is then."""
    installed = (ROOT / "setup.cfg").read_text()
    for folder in (path for path in (ROOT / "contrib").iterdir() if path.is_dir()):
        assert f"share/splitmx/contrib/{folder.name}" in installed, folder.name


def test_maps_of_query_are_those_of_the_answerer() -> None:
    """`query` keeps its own list, to import less."""
    assert query.MAPS == MAPS


@pytest.mark.parametrize(
    "words", [["bogus"], ["query"], ["query", "bogus", "a@b"], ["--bogus"], ["build", "--for", "x"]]
)
def test_wrong_usage_ends_with_two(words: list[str]) -> None:
    """Usage errors are 2, on stderr, without a traceback."""
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr
    assert not done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [["query", "transport", "a@b.c"], ["explain", "a@b.c"], ["build"], ["status"], ["flush", "x"]]
)
def test_a_configuration_that_cannot_be_read_ends_with_two(command: list[str], tmp_path: Path) -> None:
    """Missing or broken: 2, and the file is named."""
    missing = tmp_path / "none.toml"
    broken = tmp_path / "broken.toml"
    broken.write_text("[daemon\n")
    for path in (missing, broken):
        done = run("--config", str(path), *command)
        assert done.returncode == 2, done.stderr
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr


def test_every_mistake_of_the_configuration_is_told_at_once(tmp_path: Path) -> None:
    """All lines, not the first one."""
    path = tmp_path / "splitmx.toml"
    path.write_text('[daemon]\nworkers = "many"\n[domains."example.com"]\nlocal = ["nobody"]\nbogus = 1\n')
    done = run("-c", str(path), "build")
    assert done.returncode == 2
    for word in ("workers", "nobody", "bogus"):
        assert word in done.stderr


def test_the_configuration_may_be_named_everywhere(tmp_path: Path) -> None:
    """Before the command, behind it, in the environment; the nearest wins."""
    names = [str(tmp_path / name) for name in ("first", "second", "third")]
    assert names[0] in run("-c", names[0], "status").stderr
    assert names[1] in run("-c", names[0], "status", "--config", names[1]).stderr
    assert names[2] in run("status", SPLITMX_CONFIG=names[2]).stderr
    assert "/etc/splitmx/splitmx.toml" in run("status", SPLITMX_CONFIG="").stderr


def test_an_unexpected_error_is_one_line_and_never_means_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """75, so that no script takes our fault for an answer; SPLITMX_DEBUG shows where it was."""
    monkeypatch.setattr(query, "_answer", lambda *words: 1 / 0)
    monkeypatch.delenv("SPLITMX_DEBUG", raising=False)
    result = CliRunner().invoke(main, ["query", "transport", "a@b.c"])
    assert result.exit_code == 75
    assert result.stderr.count("\n") == 1
    assert "ZeroDivisionError" in result.stderr
    monkeypatch.setenv("SPLITMX_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(main, ["query", "transport", "a@b.c"]).stderr


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """130, as shells have it."""

    def interrupt(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(query, "_answer", interrupt)
    result = CliRunner().invoke(main, ["query", "transport", "a@b.c"])
    assert result.exit_code == 128 + signal.SIGINT
    assert "Traceback" not in result.output


def test_a_reader_that_goes_away_is_no_fault() -> None:
    """`splitmx … | head` says nothing on stderr."""
    code = "import sys; from policyd.cli import main; main(['--help'] )"
    with subprocess.Popen(
        [sys.executable, "-I", "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0, "1 would say that something was found"


def test_a_remark_that_nobody_reads_changes_no_answer(tmp_path: Path) -> None:
    """`splitmx query … 2>&1 >answer | true`: that no daemon runs is for people; 1 would say that nobody is there."""
    (tmp_path / "list").write_text("ann@example.com\n")
    (tmp_path / "c.toml").write_text(
        f'[daemon]\ncontrol = "unix:{tmp_path}/control.sock"\nstate = "{tmp_path}"\n'
        f'[directories.here]\ntype = "file"\nformat = "list"\npath = "{tmp_path}/list"\n'
        '[destinations.there]\nhosts = ["192.0.2.9"]\n'
        '[domains."example.com"]\nlocal = ["here"]\ndestination = "there"\n'
    )
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-I", "-c", "from policyd.cli import main; main()", "--config", f"{tmp_path}/c.toml"]
    try:
        done = subprocess.run(
            [*command, "query", "here", "ann@example.com"],
            stdout=subprocess.PIPE, stderr=writes, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(writes)
    assert (done.returncode, done.stdout) == (0, "LOCAL\n")


@pytest.mark.parametrize("words", [["query", "nonsense", "x"], ["--config", "/nowhere", "check"]])
def test_nobody_who_reads_stderr_changes_no_exit_code(words: list[str]) -> None:
    """`splitmx … 2>&1 >/dev/null | true` ends as it would with a reader."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-I", "-c", "from policyd.cli import main; main()", *words]
    try:
        assert subprocess.run(command, stderr=writes, timeout=60, check=False).returncode == 2
    finally:
        os.close(writes)


def test_a_full_disk_behind_stdout_is_try_later() -> None:
    """Output that could not be written ends with 75 and one line, not with Python's 120."""
    words = "init --print --domain x.example --file /etc/passwd --host a.example"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-I", "-c", "from policyd.cli import main; main()", *words.split()],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (75, "splitmx: No space left on device\n")


def test_what_others_wrote_cannot_steer_a_terminal() -> None:
    """Control characters of a directory or a sender are shown, not sent."""
    assert visible("a\x1b[2Jb\x07\tc") == "a\\x1b[2Jb\\x07\tc"


def test_version() -> None:
    """`--version` names the program and a number."""
    assert re.fullmatch(r"splitmx \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("page", ["splitmx.1", "splitmx.toml.5"])
def test_manual_pages_are_clean(page: str) -> None:
    """groff finds nothing to complain of."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", str(ROOT / "docs/man" / page)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.slow
def test_quickstart_can_be_run_twice(folder: Path) -> None:
    """Both times it ends well, keeps what is there, and what it wrote works."""
    demo = folder / "demo"
    environment = os.environ | {"SPLITMX_DEMO_ONLY_PREPARE": "1", "SPLITMX_DEMO_PYTHON": sys.executable}
    for _ in range(2):
        done = subprocess.run(
            [str(ROOT / "contrib/quickstart.sh"), str(demo)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=110,
        )
        if done.returncode and "pip failed" in done.stderr and "No matching distribution" in done.stderr + done.stdout:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "splitmx query transport ann@example.com" in done.stdout
    answer = subprocess.run(
        [str(demo / "venv/bin/splitmx"), "-c", str(demo / "splitmx.toml"), "explain", "--json", "staff+x@example.com"],
        capture_output=True,
        text=True,
    )
    assert json.loads(answer.stdout)["targets"] == ["ann+x@example.com", "bob+x@example.com", "dora+x@example.net"]
    assert (demo / "venv/share/splitmx/contrib/splitmx.toml").exists()
