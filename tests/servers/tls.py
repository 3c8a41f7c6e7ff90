# SPDX-License-Identifier: Apache-2.0
"""A certification authority for tests: one CA, server certificates for loopback, made with openssl."""

from __future__ import annotations

from pathlib import Path

from tests.servers.process import run


class Authority:
    """A CA of our own in `folder`; `ca` is its certificate's path."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.ca = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._serial = 1
        run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                str(self._key),
                "-out",
                str(self.ca),
                "-days",
                "3650",
                "-subj",
                f"/CN=Test {name}",
            ]
        )

    def issue(self, name: str, *alternatives: str, days: int = 3650) -> tuple[Path, Path]:
        """A server certificate and its key; alternatives such as `IP:127.0.0.1` or `DNS:localhost`; -1 day: expired."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        run(
            [
                "openssl",
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                str(key),
                "-out",
                str(request),
                "-subj",
                f"/CN={name}",
            ]
        )
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(alternatives) or 'DNS:localhost,IP:127.0.0.1'}\n")
        self._serial += 1
        run(
            [
                "openssl",
                "x509",
                "-req",
                "-in",
                str(request),
                "-CA",
                str(self.ca),
                "-CAkey",
                str(self._key),
                "-set_serial",
                str(self._serial),
                "-days",
                str(days),
                "-extfile",
                str(extensions),
                "-out",
                str(certificate),
            ]
        )
        key.chmod(0o644)
        return certificate, key
