# SPDX-License-Identifier: Apache-2.0
"""What an MTA's own files hold in an encoding that is not this process's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.mta.places import new_folder

ASK = """
import sys
from pathlib import Path
from transport.mta.postfix import read
postfix = read(Path(sys.argv[1]))
found = postfix.lookup(sys.argv[2], ["\\u65e5\\u672c.example", "b\\u00fccher.example"])
assert postfix.value("smtpd_banner").startswith("Gr"), postfix.value("smtpd_banner")
assert list(found.values()) == ["smtp:[192.0.2.1]"], found
"""


@pytest.mark.skipif(shutil.which("postconf") is None, reason="Postfix is not installed")
@pytest.mark.parametrize("utf8", ["0", "1"])
def test_postfix_is_read_in_any_encoding(utf8: str) -> None:
    """A banner in Latin-1, and a domain beyond ASCII asked for in a locale without UTF-8, end no command."""
    folder = new_folder("enc")
    (folder / "main.cf").write_bytes(b"compatibility_level = 3.6\nsmtpd_banner = Gr\xfc\xdfe\n")
    (folder / "master.cf").write_text("smtp inet n - n - - smtpd\n")
    (folder / "routes").write_text("日本.example smtp:[192.0.2.1]\n", "utf-8")
    environment = os.environ | {"PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", ASK, str(folder), f"texthash:{folder}/routes"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
