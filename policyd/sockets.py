# SPDX-License-Identifier: Apache-2.0
"""Listening sockets: bound under the lock in `state`, or inherited from systemd, opened and closed as a whole.

A unix socket gets its mode and group before it listens, so nobody can connect too early. A socket file that nobody
listens on is left over from a crash and is removed; one that somebody answers on is never taken over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from transport.config.settings import Daemon, Listener

# A full backlog of a unix socket is an immediate failure for Postfix (unix_connect.c): as large as the kernel allows.
_BACKLOG = 4096
_PATH_LIMIT = 107  # sun_path less its NUL, unix(7)


_WRONG_PATH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_PASSING = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL,
})  # fmt: skip


def passes(error: OSError) -> bool:
    """Whether it may be over at the next attempt (a full disk, an address that is not up yet): no mistake."""
    return error.errno in _PASSING or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN)


class ListenError(Exception):
    """A listener cannot be opened; the text says which, why and what to do.

    later: the system refused it (an address that is not there yet, a full disk, a port in use), so that another attempt
    may succeed with the same configuration.
    """

    def __init__(self, text: str, later: bool = False) -> None:
        super().__init__(text)
        self.later = later


class LockHeldError(Exception):
    """Another daemon uses this state directory."""


def take_lock(state: Path) -> int:
    """Lock `state`/lock for the life of the returned descriptor. Raises LockHeldError or OSError."""
    state.mkdir(mode=0o711, parents=True, exist_ok=True)  # x: Postfix reaches the maps below it
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise LockHeldError(f"{state}/lock is held by process {holder}: that daemon already uses this state") from None
    with contextlib.suppress(OSError):  # a full disk: our number is only for people
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def state_fault(state: Path, error: OSError) -> dict[str, object]:
    """What `take_lock` met, as the fields of a log line: which file, why, and what to do."""
    hint = "the service tries again by itself once that is mended"
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = f"it has to belong to the daemon's user: chown -R {_own_name()}: {state}"
    elif error.errno == errno.EROFS:
        hint = "read-only for the daemon: under systemd, name it in ReadWritePaths="
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room"
    return {"state": state, "file": error.filename, "error": error.strerror, "hint": hint}


def _own_name() -> str:
    """This process's user."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def roles(daemon: Daemon) -> Iterator[tuple[str, str, Listener]]:
    """Every listener as (role, map name or "", listener).

    Roles: socketmap, policy, exim, tcp_table, control, metrics.
    """
    for listener in daemon.socketmap:
        yield "socketmap", "", listener
    for listener in daemon.policy:
        yield "policy", "", listener
    for listener in daemon.exim:
        yield "exim", "", listener
    for name, listener in daemon.tcp_table.items():
        yield "tcp_table", name, listener
    yield "control", "", daemon.control
    if daemon.metrics is not None:
        yield "metrics", "", daemon.metrics


KEEPER_ROLES = frozenset({"control", "metrics"})


class Open:
    """One open listener: where it stands, its role, its socket, and whether systemd owns it."""

    def __init__(self, role: str, map_name: str, listener: Listener, sock: socket.socket, inherited: bool) -> None:
        self.role = role
        self.map_name = map_name
        self.listener = listener
        self.sock = sock
        self.inherited = inherited
        self.inode = _inode(listener) if listener.kind == "unix" else None

    @property
    def for_keeper(self) -> bool:
        """Whether the keeper, not the workers, answers here."""
        return self.role in KEEPER_ROLES

    @property
    def open(self) -> bool:
        """Whether our copy of the socket is."""
        return self.sock.fileno() >= 0

    @property
    def lost(self) -> bool:
        """Whether its socket file is gone or another one stands there: nobody reaches this one any more."""
        if self.inode is None or self.inherited or not self.open:
            return False
        try:
            status = Path(self.listener.path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # we may not look
        return (status.st_dev, status.st_ino) != self.inode

    def refuse(self) -> None:
        """Whoever connects or waits is refused at once, though a process that does not end has a copy (shutdown(2))."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def close(self, *, remove: bool = False) -> None:
        """Close our copy; with `remove` also the socket file."""
        self.sock.close()
        if remove:
            self.remove()

    def remove(self) -> None:
        """Remove the socket file, if it is still the one we made."""
        if not self.inherited and self.inode is not None and _inode(self.listener) == self.inode:
            try:
                Path(self.listener.path).unlink()
            except OSError:
                pass  # left over: removed at the next start


def _inode(listener: Listener) -> tuple[int, int] | None:
    try:
        status = Path(listener.path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_all(daemon: Daemon, inherited: Sequence[int]) -> list[Open]:
    """Open every listener of the configuration; `inherited` descriptors are matched by their address.

    Raises ListenError for the first that fails (those opened before are closed), and for an inherited descriptor
    that no listener names: a socket that nobody accepts from would hang the MTA.
    """
    given: dict[object, socket.socket] = {}
    for descriptor in inherited:
        sock = socket.socket(fileno=descriptor)
        given[_address(sock)] = sock
    opened: list[Open] = []
    try:
        for role, map_name, listener in roles(daemon):
            opened.append(open_one(role, map_name, listener, given))
        if given:
            names = ", ".join(str(name) for name in given)
            raise ListenError(
                f"systemd handed over {names}, which [daemon] does not name: remove it from the .socket unit"
            )
    except ListenError:
        for one in opened:
            one.close(remove=True)
        raise
    return opened


def open_one(role: str, map_name: str, listener: Listener, given: dict[object, socket.socket]) -> Open:
    """Open one listener, taking it out of `given` when it was inherited. Raises ListenError."""
    key: object = listener.path if listener.kind == "unix" else (listener.host, listener.port)
    inherited = given.pop(key, None)
    try:
        if inherited is not None:
            sock = inherited
        elif listener.kind == "unix":
            sock = _bind_unix(listener)
        else:
            sock = _bind_inet(listener)
    except OSError as error:
        raise ListenError(
            f"{listener.name}: {error.strerror or error}{_hint(error)}", error.errno not in _WRONG_PATH
        ) from error
    sock.setblocking(False)
    return Open(role, map_name, listener, sock, inherited is not None)


def _address(sock: socket.socket) -> object:
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else os.fsdecode(name) if isinstance(name, bytes) else name


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return ": another process listens there"
    if error.errno in (errno.EACCES, errno.EPERM):
        return ": the daemon's user may not write there, or is not in the socket's group (SupplementaryGroups=)"
    if error.errno == errno.ENOENT:
        return ": its directory does not exist (systemd/splitmx.tmpfiles makes it)"
    if error.errno == errno.EADDRNOTAVAIL:
        return ": this host does not have that address now"
    if error.errno == errno.EROFS:
        return ": read-only for the daemon (under systemd: name its directory in ReadWritePaths=)"
    return ""


def _group_id(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ListenError(f"group={name}: no such group on this host") from None


def _bind_unix(listener: Listener) -> socket.socket:
    if len(os.fsencode(listener.path)) > _PATH_LIMIT:
        raise ListenError(f"{listener.name}: longer than {_PATH_LIMIT} bytes, which no MTA can connect to")
    group = _group_id(listener.group) if listener.group else -1
    with contextlib.suppress(OSError):  # such as /run/splitmx after a boot; what is wrong further up, bind says
        Path(listener.path).parent.mkdir(mode=0o711)
    _remove_stale(listener)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(listener.path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    try:
        if group != -1:
            os.chown(listener.path, -1, group)
        Path(listener.path).chmod(listener.mode)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        Path(listener.path).unlink()
        raise
    return sock


def _remove_stale(listener: Listener) -> None:
    """Remove a socket file that nobody listens on. Raises ListenError when somebody does or it is something else."""
    try:
        status = os.lstat(listener.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"{listener.name}: something that is not a socket stands there; not touched")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(listener.path)
        except ConnectionRefusedError:
            Path(listener.path).unlink()
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # a full backlog: somebody holds it open
    raise ListenError(f"{listener.name}: another process listens there; not taken over", later=True)


def _bind_inet(listener: Listener) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except socket.gaierror as error:
        raise ListenError(f"{listener.name}: {error.strerror}", passes(error)) from error
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
