#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Try splitmx: a virtual environment, a demo configuration with a directory of its own, the daemon in the foreground.
# Nothing outside its folder is touched; safe to run again, as root or as anybody.
#
#   contrib/quickstart.sh [FOLDER]      FOLDER: ~/splitmx-demo (as root /opt/splitmx-demo)
#   SPLITMX_DEMO_PYTHON=python3.12      another Python, 3.11 or newer
#   SPLITMX_DEMO_ONLY_PREPARE=1         make everything, do not start the daemon
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
case "$(id -u)" in
    0) folder=${1:-/opt/splitmx-demo}; as="--user root" ;;
    *) folder=${1:-$HOME/splitmx-demo}; as="" ;;
esac
mkdir -p "$folder"
folder=$(CDPATH='' cd -- "$folder" && pwd)
venv=$folder/venv
log=$folder/install.log

say() { printf '%s\n' "$*"; }
give_up() { say "quickstart: $*" >&2; exit 1; }

python=${SPLITMX_DEMO_PYTHON:-}
if [ -z "$python" ]; then
    for name in python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$name
            break
        fi
    done
fi
[ -n "$python" ] || give_up "needs Python 3.11 or newer (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv)"

if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "making a virtual environment in $venv"
    rm -rf "$venv"
    if ! "$python" -m venv "$venv" >"$log" 2>&1; then
        rm -rf "$venv"
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            say "installing python3-venv"
            { apt-get update && apt-get install -y --no-install-recommends python3-venv; } >>"$log" 2>&1 ||
                give_up "apt-get install python3-venv failed, see $log"
            "$python" -m venv "$venv" >>"$log" 2>&1 || give_up "$python -m venv failed, see $log"
        else
            give_up "$python -m venv failed, see $log (Debian: apt-get install python3-venv)"
        fi
    fi
fi
say "installing splitmx from $here"
# a copy: the sources may be read-only, or another user's
sources=$folder/sources
rm -rf "$sources"
mkdir -p "$sources"
for part in pyproject.toml setup.cfg README.md LICENSE transport policyd contrib systemd docs; do
    if [ -e "$here/$part" ]; then cp -R "$here/$part" "$sources/"; fi
done
# pip takes the same version number for the same program: the sources may be newer all the same
"$venv/bin/python" -m pip uninstall --yes splitmx >"$log" 2>&1 || true
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --quiet "$sources" >>"$log" 2>&1; then
    tail -n 5 "$log" >&2
    give_up "pip failed, see $log"
fi
rm -rf "$sources"

run=$folder/run
mkdir -p "$run" "$folder/state"
chmod 755 "$folder" "$run"
config=$folder/splitmx.toml
database=$folder/directory.db

if [ ! -e "$database" ]; then
    say "making a directory of recipients in $database"
    "$venv/bin/python" - "$database" <<'PYTHON'
import sqlite3
import sys

people = [
    # address, kind, targets, location
    ("ann@example.com", "mailbox", None, None),
    ("bob@example.com", "mailbox", None, "cloud"),
    ("o'brien@example.com", "mailbox", None, None),
    ("postmaster@example.com", "alias", "ann@example.com", None),
    ("sales@example.com", "alias", "bob@example.com", None),
    ("staff@example.com", "group", "ann@example.com bob@example.com dora@example.net", None),
    ("dora@example.net", "mailbox", None, None),
    ("postmaster@example.net", "alias", "dora@example.net", None),
]
with sqlite3.connect(sys.argv[1]) as database:
    database.execute(
        "CREATE TABLE recipients (address TEXT PRIMARY KEY, kind TEXT, targets TEXT, location TEXT,"
        " active INTEGER NOT NULL DEFAULT 1)"
    )
    database.executemany("INSERT INTO recipients (address, kind, targets, location) VALUES (?, ?, ?, ?)", people)
PYTHON
fi

if [ ! -e "$config" ]; then
    say "writing $config"
    cat >"$config" <<TOML
# The demo of contrib/quickstart.sh. contrib/splitmx.toml and docs/configuration.md explain every key.
[daemon]
socketmap = ["unix:$run/socketmap.sock?mode=0666"]
policy    = ["unix:$run/policy.sock?mode=0666"]
control   = "unix:$run/control.sock"
metrics   = "unix:$run/metrics.sock"
state     = "$folder/state"

[directories.here]      # who is on this side; bob has moved to the cloud
type  = "sql"
url   = "sqlite:///$database"
query = "SELECT address, kind, targets, location, active FROM recipients"

[destinations.cloud]    # the other side
hosts = ["example-com.mail.protection.example.org"]
tls   = "encrypt"

[domains."example.com"] # who is listed nowhere is relayed to the cloud, which is asked first
local = ["here"]
destination = "cloud"
unknown = "verify"
local_transport = "lmtp:unix:private/lmtp"
locations = { cloud = "cloud" }

[domains."example.net"]
local = ["here"]
destination = "cloud"
unknown = "relay"
local_transport = "lmtp:unix:private/lmtp"
TOML
fi

splitmx="$venv/bin/splitmx"
"$splitmx" --config "$config" check --offline >/dev/null || give_up "the configuration $config is not good"

cat <<TEXT

splitmx is ready. In another terminal:

  export SPLITMX_CONFIG='$config'
  PATH="$venv/bin:\$PATH"
  splitmx query transport ann@example.com           # here
  splitmx query transport bob@example.com           # in the cloud
  splitmx query virtual_alias staff+news@example.com
  splitmx query relay_recipients stranger@example.com
  splitmx explain stranger@example.com
  splitmx status
TEXT
if command -v postmap >/dev/null 2>&1; then
    cat <<TEXT

and as Postfix asks:

  postmap -q bob@example.com socketmap:unix:$run/socketmap.sock:transport
  postmap -q staff@example.com socketmap:unix:$run/socketmap.sock:virtual_alias
TEXT
fi
update="UPDATE recipients SET location = 'cloud' WHERE address = 'ann@example.com'"
if command -v sqlite3 >/dev/null 2>&1; then
    change="sqlite3 '$database' \"$update\""
else
    change="'$venv/bin/python' -c \"import sqlite3; d = sqlite3.connect('$database'); d.execute(\\\"$update\\\"); d.commit()\""
fi
cat <<TEXT

Change who is where, and ask again:

  $change
  splitmx flush ann@example.com
  splitmx query transport ann@example.com

TEXT
[ -z "${SPLITMX_DEMO_ONLY_PREPARE:-}" ] || exit 0
if "$splitmx" --config "$config" status >/dev/null 2>&1; then
    say "the demo's daemon is running already"
    exit 0
fi
say "The daemon runs in the foreground from here on; Ctrl-C ends it."
say ""
# shellcheck disable=SC2086  # empty or two words
exec "$splitmx" --config "$config" serve $as
