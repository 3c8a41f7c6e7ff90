# SPDX-License-Identifier: Apache-2.0
"""Active Directory as Samba's domain controller: one private process that speaks LDAP only. Needs root.

A domain is provisioned once and kept under /var/tmp (or $SPLITMX_TEST_CACHE); each server starts on a copy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.servers.process import Process, accepts, run, scratch, tool
from tests.servers.server import LdapServer
from tests.servers.tls import Authority

BINARY = tool("samba")
REALM = "EXAMPLE.TEST"
SUFFIX = "DC=example,DC=test"
ADMIN = f"Administrator@{REALM}"
PASSWORD = "Passw0rd.split"
_EDITION = "1"  # of what is kept: change it when the provisioning below changes
_next_host = 0

# Exchange adds this attribute; Samba's schema has only proxyAddresses. searchFlags 1: indexed.
_TARGET_ADDRESS = f"""\
dn: CN=ms-Exch-Target-Address,CN=Schema,CN=Configuration,{SUFFIX}
changetype: add
objectClass: attributeSchema
cn: ms-Exch-Target-Address
lDAPDisplayName: targetAddress
attributeID: 1.2.840.113556.1.2.352
attributeSyntax: 2.5.5.12
oMSyntax: 64
isSingleValued: TRUE
searchFlags: 1
"""
_REFRESH = """\
dn:
changetype: modify
add: schemaUpdateNow
schemaUpdateNow: 1
"""


def _may_contain(name: str) -> str:
    return (
        f"dn: CN={name},CN=Schema,CN=Configuration,{SUFFIX}\nchangetype: modify\n"
        "add: mayContain\nmayContain: targetAddress\n"
    )


class SambaAd(LdapServer):
    """`url` (plain), `ldaps`, `base`; bind as ADMIN with PASSWORD. `OU=people` and `OU=groups` are empty."""

    suffix = SUFFIX
    admin = ADMIN
    password = PASSWORD
    base = SUFFIX
    _search_options = ("-E", "pr=500/noprompt")

    def __init__(self, *, authority: Authority | None = None) -> None:
        global _next_host
        _next_host += 1
        self.host = f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}.{_next_host}"
        self.url = f"ldap://{self.host}"
        self.ldaps = f"ldaps://{self.host}"
        self.folder = scratch("samba")
        self._data = self.folder / "data"
        self.process = Process("samba", self.folder / "samba.log")
        self._tls = ""
        if authority is not None:
            certificate, key = authority.issue("samba", f"IP:{self.host}", "DNS:localhost")
            key.chmod(0o600)
            self._tls = f"tls certfile = {certificate}\ntls keyfile = {key}\ntls cafile = {authority.ca}\n"
        kept = _provisioned()
        run(["cp", "-a", "--sparse=always", str(kept), str(self._data)])
        self.start()

    @classmethod
    def _bare(cls, data: Path) -> SambaAd:
        """A server straight on `data`, for the first schema change."""
        self = cls.__new__(cls)
        self.host = f"127.99.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
        self.url = f"ldap://{self.host}"
        self.folder, self._data, self._tls = data.parent, data, ""
        self.process = Process("samba", data.parent / "samba.log")
        return self

    def start(self) -> None:
        """Start on what the data folder holds."""
        data = self._data
        (data / "cache").mkdir(exist_ok=True)
        conf = data / "smb.conf"
        conf.write_text(
            f"[global]\nnetbios name = DC1\nrealm = {REALM}\nworkgroup = EXAMPLE\n"
            "server role = active directory domain controller\nserver services = ldap\n"
            f"interfaces = {self.host}/8\nbind interfaces only = yes\nldap server require strong auth = no\n"
            f"dsdb:schema update allowed = yes\nprivate dir = {data}/private\nlock directory = {data}\n"
            f"state directory = {data}/state\ncache directory = {data}/cache\npid directory = {data}\n"
            f"binddns dir = {data}/bind-dns\nncalrpc dir = {data}/ncalrpc\nlog file = {data}/log\n"
            f"panic action =\n{self._tls}"
        )
        self.process.launch(
            [BINARY, "-i", "-M", "single", "-s", str(conf)], lambda: accepts(self.host, 389), seconds=90
        )

    def user(
        self,
        name: str,
        mail: str = "",
        proxies: Iterable[str] = (),
        *,
        target: str = "",
        disabled: bool = False,
        **attributes: str,
    ) -> str:
        """Add a user; gives its DN. `proxies` with their prefixes (`SMTP:…`)."""
        dn = f"CN={name},OU=people,{SUFFIX}"
        lines = [f"dn: {dn}", "objectClass: user", f"sAMAccountName: {name}"]
        lines.append(f"userAccountControl: {546 if disabled else 544}")
        lines += _mail_lines(mail, proxies, target) + [f"{k}: {v}" for k, v in attributes.items()]
        self.ldif("\n".join(lines) + "\n")
        return dn

    def contact(self, name: str, mail: str, target: str, proxies: Iterable[str] = ()) -> str:
        """Add a mail contact; gives its DN."""
        dn = f"CN={name},OU=people,{SUFFIX}"
        self.ldif("\n".join([f"dn: {dn}", "objectClass: contact", *_mail_lines(mail, proxies, target)]) + "\n")
        return dn

    def group(self, name: str, mail: str, members: Iterable[str], proxies: Iterable[str] = ()) -> str:
        """Add a distribution group with these member DNs; gives its DN."""
        dn = f"CN={name},OU=groups,{SUFFIX}"
        lines = [f"dn: {dn}", "objectClass: group", f"sAMAccountName: {name}", "groupType: 8"]
        self.ldif("\n".join([*lines, *_mail_lines(mail, proxies, ""), *(f"member: {m}" for m in members)]) + "\n")
        return dn

    def stop(self) -> None:
        """End the server, in five seconds at the most; its data stays."""
        self.process.stop(seconds=5)


def _mail_lines(mail: str, proxies: Iterable[str], target: str) -> list[str]:
    lines = [f"mail: {mail}"] if mail else []
    lines += [f"proxyAddresses: {value}" for value in proxies]
    return lines + ([f"targetAddress: {target}"] if target else [])


def _provisioned() -> Path:
    """The kept domain, made at the first call on this machine."""
    version = run([BINARY, "--version"]).split()[-1].replace("/", "_")
    root = Path(os.environ.get("SPLITMX_TEST_CACHE", "/var/tmp/splitmx-tests"))
    kept = root / f"samba-{version}-{_EDITION}"
    if kept.is_dir():
        return kept
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=root))
    data = work / "data"
    run(
        [
            "samba-tool",
            "domain",
            "provision",
            f"--realm={REALM}",
            "--domain=EXAMPLE",
            f"--adminpass={PASSWORD}",
            "--server-role=dc",
            "--dns-backend=NONE",
            f"--targetdir={data}",
            "--host-ip=127.0.0.1",
            "--host-name=DC1",
            "--option=interfaces=lo",
            "--option=bind interfaces only=yes",
        ]
    )
    server = SambaAd._bare(data)
    server.start()
    try:
        server.ldif(_TARGET_ADDRESS)
        server.ldif(_REFRESH)
        for name in ("Organizational-Person", "Group"):
            server.ldif(_may_contain(name))
        server.ldif(_REFRESH)
        for ou in ("people", "groups"):
            server.ldif(f"dn: OU={ou},{SUFFIX}\nchangetype: add\nobjectClass: organizationalUnit\nou: {ou}\n")
    finally:
        server.stop()
    try:
        data.rename(kept)
    except OSError:
        if not kept.is_dir():  # another run was faster, or the disk is wrong
            raise
    shutil.rmtree(work, ignore_errors=True)
    return kept
