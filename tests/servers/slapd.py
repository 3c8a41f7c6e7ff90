# SPDX-License-Identifier: Apache-2.0
"""OpenLDAP's slapd as a private process: one mdb database with content sync, plain and TLS."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from tests.servers.process import Process, accepts, free_port, run, scratch, tool
from tests.servers.server import LdapServer
from tests.servers.tls import Authority

BINARY = tool("slapd")
SUFFIX = "dc=example,dc=com"
ADMIN = f"cn=admin,{SUFFIX}"
PASSWORD = "sesame"

# qmail.schema's names, which many mail sites carry, in one auxiliary class that any entry may have.
_SCHEMA = """
attributetype ( 1.3.6.1.4.1.7914.1.2.1.4 NAME 'mailAlternateAddress' EQUALITY caseIgnoreIA5Match
  SUBSTR caseIgnoreIA5SubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.7914.1.2.1.6 NAME 'mailHost' EQUALITY caseIgnoreIA5Match
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.7914.1.2.1.7 NAME 'mailForwardingAddress' EQUALITY caseIgnoreIA5Match
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.7914.1.2.1.20 NAME 'accountStatus' EQUALITY caseIgnoreIA5Match
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.7914.1.2.1.99 NAME 'mailKind' EQUALITY caseIgnoreIA5Match
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.7914.1.2.1.98 NAME 'intlMail' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.7914.1.2.2.1 NAME 'mailPerson' SUP top AUXILIARY
  MAY ( mail $ mailAlternateAddress $ mailHost $ mailForwardingAddress $ accountStatus $ mailKind
        $ intlMail $ proxyAddresses $ targetAddress ) )
"""
_EXCHANGE = """
attributetype ( 1.2.840.113556.1.2.210 NAME 'proxyAddresses' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.2.840.113556.1.2.352 NAME 'targetAddress' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
"""

BASE_LDIF = f"""\
dn: {SUFFIX}
objectClass: top
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,{SUFFIX}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{SUFFIX}
objectClass: organizationalUnit
ou: groups
"""


class Slapd(LdapServer):
    """`url`, `ldaps`, `base`; bind as ADMIN with PASSWORD. Begins with `ou=people` and `ou=groups`, empty.

    authority: gives it a certificate, and `ldaps` and StartTLS work; for `localhost` and 127.0.0.1, or for `names`
    such as DNS:ldap.example.com.
    size_limit: what one search may give without paging. extra: further slapd.conf lines of the database.
    """

    suffix = SUFFIX
    admin = ADMIN
    password = PASSWORD
    base = f"ou=people,{SUFFIX}"

    def __init__(
        self,
        *,
        authority: Authority | None = None,
        names: tuple[str, ...] = (),
        host: str = "127.0.0.1",
        size_limit: str = "unlimited",
        extra: str = "",
        sessionlog: int = 1000,
        content_sync: bool = True,
        start: bool = True,
    ) -> None:
        self.folder = scratch("slapd")
        self.host = host
        self.port, self.tls_port = free_port(host), free_port(host)
        self.url = f"ldap://{host}:{self.port}"
        self.ldaps = f"ldaps://{host}:{self.tls_port}" if authority else ""
        self.process = Process("slapd", self.folder / "log")
        self._data = self.folder / "data"
        self._data.mkdir()
        (self.folder / "mail.schema").write_text(_EXCHANGE + _SCHEMA)
        tls = ""
        if authority is not None:
            certificate, key = authority.issue(f"slapd{self.port}", *names)
            tls = f"TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n"
            tls += f"TLSCACertificateFile {authority.ca}\n"
        sync = f"overlay syncprov\nsyncprov-sessionlog {sessionlog}\n" if content_sync else ""
        schemas = "".join(f"include /etc/ldap/schema/{n}.schema\n" for n in ("core", "cosine", "inetorgperson"))
        self.conf = self.folder / "slapd.conf"
        self.conf.write_text(
            f"{schemas}include {self.folder}/mail.schema\n"
            f"pidfile {self.folder}/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\nmoduleload syncprov\n"
            f"sizelimit {size_limit}\nthreads 4\n{tls}"
            f"database mdb\nsuffix {SUFFIX}\nrootdn {ADMIN}\nrootpw {PASSWORD}\ndirectory {self._data}\n"
            "maxsize 2147483648\ndbnosync\nindex objectClass,entryUUID,entryCSN eq\n"
            f"index mail,mailAlternateAddress,proxyAddresses,intlMail eq\n{extra}\n{sync}"
        )
        self._slapadd(BASE_LDIF)
        if start:
            self.start()

    def _slapadd(self, ldif: str) -> None:
        run([tool("slapadd"), "-q", "-f", str(self.conf)], stdin=ldif)

    def start(self) -> None:
        """Start on what the database holds."""
        where = f"{self.url}/ {self.ldaps}{'/' if self.ldaps else ''}".strip()
        self.process.launch(
            [BINARY, "-f", str(self.conf), "-h", where, "-d", "0"], lambda: accepts(self.host, self.port)
        )

    def restart(self, *, empty: bool = False) -> None:
        """Stop and start; `empty`: with the same tree, but nobody in it."""
        self.stop()
        if empty:
            shutil.rmtree(self._data)
            self._data.mkdir()
            self._slapadd(BASE_LDIF)
        self.start()

    def load(self, ldif: str) -> None:
        """Fill a large LDIF in quickly: the server is down meanwhile."""
        running = self.process.running
        self.stop()
        self._slapadd(ldif)
        if running:
            self.start()

    def person(self, uid: str, *mail: str, ou: str = "people", **attributes: str | Iterable[str]) -> str:
        """Add an inetOrgPerson with these addresses (the first in `mail`, all others too); gives its DN."""
        dn = f"uid={uid},ou={ou},{SUFFIX}"
        lines = [
            f"dn: {dn}",
            "objectClass: inetOrgPerson",
            "objectClass: mailPerson",
            f"cn: {uid}",
            f"sn: {uid}",
        ]
        lines += [f"mail: {value}" for value in mail]
        for name, values in attributes.items():
            lines += [f"{name}: {v}" for v in ([values] if isinstance(values, str) else values)]
        self.ldif("\n".join(lines) + "\n")
        return dn

    def group(self, cn: str, mail: str, members: Iterable[str]) -> str:
        """Add a groupOfNames with an address and these member DNs; gives its DN."""
        dn = f"cn={cn},ou=groups,{SUFFIX}"
        lines = [
            f"dn: {dn}",
            "objectClass: groupOfNames",
            "objectClass: mailPerson",
            f"cn: {cn}",
            f"mail: {mail}",
        ]
        self.ldif("\n".join([*lines, *(f"member: {m}" for m in members)]) + "\n")
        return dn
