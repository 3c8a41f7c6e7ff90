#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Install what the tests need (as root on Debian or Ubuntu), make the virtual environment, run everything.
# Usage: tests/run.sh [words for pytest]. Safe to run again. With CI=true a skipped test is a failure.
set -eu
cd "$(dirname "$0")/.."

cache=${SPLITMX_TEST_CACHE:-/var/cache/splitmx-tests}
packages="postfix postfix-ldap postfix-pgsql postfix-mysql postfix-sqlite postfix-lmdb postfix-cdb slapd ldap-utils
 postgresql pgbouncer mariadb-server samba samba-ad-dc samba-ad-provision samba-dsdb-modules winbind
 build-essential python3-venv openssl ca-certificates systemd libcap2-bin"
# Exim's package cannot be installed beside Postfix's: it is unpacked into the cache instead.
exim_packages="exim4-daemon-heavy exim4-base exim4-config libmariadb3 libidn12 libspf2-2"

# Sendmail likewise: only its program and its configuration's macros are used.
sendmail_packages="sendmail-bin sendmail-cf m4"

say() { printf '\n== %s\n' "$*"; }

install_packages() {
    missing=
    for package in $packages; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
            "install ok installed") ;;
            *) if apt-cache show "$package" >/dev/null 2>&1 || [ ! -e /var/lib/apt/lists/splitmx-updated ]; then
                   missing="$missing $package"
               fi ;;
        esac
    done
    [ -z "$missing" ] && return 0
    say "installing:$missing"
    apt-get update -q
    : >/var/lib/apt/lists/splitmx-updated
    wanted=
    for package in $missing; do
        if apt-cache show "$package" >/dev/null 2>&1; then wanted="$wanted $package"
        else echo "not in this release: $package"; fi
    done
    # No service is started: the tests run their own, on private folders and addresses.
    own_policy=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        own_policy=yes
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections || true
    status=0
    # shellcheck disable=SC2086
    [ -z "$wanted" ] || apt-get install -q -y --no-install-recommends $wanted || status=$?
    [ -z "$own_policy" ] || rm -f /usr/sbin/policy-rc.d
    return $status
}

unpack_exim() {
    [ -e "$cache/exim/usr/sbin/exim4" ] && [ -e "$cache/exim/etc/exim4/conf.d" ] && return 0
    say "unpacking Exim into $cache/exim"
    mkdir -p "$cache/deb" "$cache/exim"
    chmod 755 "$cache" "$cache/exim"
    for package in $exim_packages; do
        # One that this release does not have (or names otherwise) may still be installed in the system.
        (cd "$cache/deb" && apt-get download -q -o APT::Sandbox::User=root "$package") || echo "not in this release: $package"
    done
    for file in "$cache"/deb/*.deb; do
        [ ! -e "$file" ] || dpkg -x "$file" "$cache/exim"
    done
    getent passwd Debian-exim >/dev/null || useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin Debian-exim
}

unpack_sendmail() {
    [ -e "$cache/sendmail/usr/libexec/sendmail/sendmail" ] && return 0
    say "unpacking Sendmail into $cache/sendmail"
    mkdir -p "$cache/deb-sendmail" "$cache/sendmail"
    for package in $sendmail_packages; do
        (cd "$cache/deb-sendmail" && apt-get download -q -o APT::Sandbox::User=root "$package") || return 1
    done
    for file in "$cache"/deb-sendmail/*.deb; do dpkg -x "$file" "$cache/sendmail"; done
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install_packages
    unpack_sendmail || echo "Sendmail could not be unpacked: its test is skipped, by name"
    unpack_exim || echo "Exim could not be unpacked: its tests are skipped, by name"
else
    echo "not root on Debian or Ubuntu: nothing is installed; tests that need servers are skipped, by name"
fi

if [ ! -x .venv/bin/python ]; then
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            break
        fi
        python=
    done
    [ -n "$python" ] || { echo "Python 3.11 or newer is needed" >&2; exit 2; }
    say "making the virtual environment with $python"
    "$python" -m venv .venv
fi
stamp=$(cksum pyproject.toml setup.cfg | cksum)
if [ "$(cat .venv/splitmx-installed 2>/dev/null || true)" != "$stamp" ] || ! .venv/bin/python -c 'import policyd, pytest' 2>/dev/null; then
    say "installing splitmx with its test tools"
    .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[test,postgresql,mysql]'
    echo "$stamp" >.venv/splitmx-installed
fi

export SPLITMX_TEST_EXIM="${SPLITMX_TEST_EXIM:-$cache/exim}" SPLITMX_TEST_SENDMAIL="${SPLITMX_TEST_SENDMAIL:-$cache/sendmail}"
# Most tests wait for servers, not for the processor: a few files at a time.
jobs=${SPLITMX_TEST_JOBS:-5}
failed=
say "ruff check";  .venv/bin/ruff check . || failed="$failed ruff-check"
say "ruff format"; .venv/bin/ruff format --check . || failed="$failed ruff-format"
say "mypy";        .venv/bin/mypy || failed="$failed mypy"
say "pytest"
status=0
.venv/bin/python -m pytest -n "$jobs" --dist loadfile --durations=20 "$@" || status=$?
if [ "$status" = 1 ]; then
    # A test that only fails beside others on a crowded machine is named above; alone it has to pass.
    say "pytest: what failed, once more and alone"
    status=0
    .venv/bin/python -m pytest --last-failed --last-failed-no-failures none "$@" || status=$?
fi
[ "$status" = 0 ] || failed="$failed pytest"
if [ -n "$failed" ]; then
    say "failed:$failed"
    exit 1
fi
say "all good"
