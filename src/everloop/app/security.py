"""What secures a server besides its keys: certificates, names, origins, and a port of its own for the administration.

A server that other machines reach needs keys, or somebody who says that it needs none (`insecure`). That is looked at when it starts,
because keys live in its data folder or database; from then on it is closed even to the case that there is none.

A certificate that has been renewed on disk is taken up within `LOOK_SECONDS`, for connections that come later; one that cannot be read
leaves the old one in force and says so once.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.api.http.front import Front, Hosts
from everloop.api.override import check_keys
from everloop.core.errors import InvalidInput

if TYPE_CHECKING:
    from everloop.api.door import Door

LOOK_SECONDS = 1.0
_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:-]+")
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.IGNORECASE)

log = logging.getLogger("everloop.tls")


@dataclass(frozen=True)
class Security:
    """The section `[security]`. Raises InvalidInput naming the field."""

    admin_keys: tuple[str, ...] = field(default=(), repr=False, metadata={"secret": True})
    """Keys with every scope that come from the configuration and not from the store; at least 16 characters each."""
    tls_cert: Path | None = None
    """The certificate and what leads to its root, PEM; None: no TLS."""
    tls_key: Path | None = None
    """Its private key, PEM; None: it is in `tls_cert`, too."""
    tls_client_ca: Path | None = None
    """Certificates, PEM, one of which has to have signed that of every client; None: clients need none."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call, like `https://app.example.org`, or `*`."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that the server answers to, `*.example.org` for all below, `*` for any. Empty: where nobody is asked for a key, only
    addresses, `localhost` and the name that it listens on; any name otherwise."""
    admin_port: int | None = None
    """The only port on which what changes models is there (0: any free one); None: there is one port for everything."""
    admin_host: str = "127.0.0.1"
    """Where `admin_port` is listened on."""

    def __post_init__(self) -> None:
        check_keys(self.admin_keys, "admin_keys")
        _expect("tls_key", self.tls_key is None or self.tls_cert is not None, "nothing without tls_cert", self.tls_key)
        _expect(
            "tls_client_ca",
            self.tls_client_ca is None or self.tls_cert is not None,
            "nothing without tls_cert",
            self.tls_client_ca,
        )
        for origin in self.cors_origins:
            good = origin == "*" or _ORIGIN.fullmatch(origin) is not None
            _expect("cors_origins", good, "origins like https://app.example.org (lower case, no path), or *", origin)
        for name in self.allowed_hosts:
            _expect("allowed_hosts", name == "*" or _HOST.fullmatch(name) is not None, "names, without a port", name)
        port = self.admin_port
        _expect("admin_port", port is None or 0 <= port <= 65_535, "between 0 and 65535", port)
        _expect("admin_host", bool(self.admin_host.strip()), "an address to listen on", self.admin_host)


class Certificates:
    """The TLS context of one server, made from files, and made anew when those change. Raises InvalidInput."""

    def __init__(self, security: Security) -> None:
        assert security.tls_cert is not None
        self._security = security
        self._chain = security.tls_cert
        self._key = security.tls_key or security.tls_cert
        self.context = self._make()
        self._seen = self._stamp()

    def look(self) -> None:
        """Take up what has changed on disk."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._make()  # on a context of its own first: half a pair must not be taken up
            self.context.load_cert_chain(self._chain, self._key)
        except (InvalidInput, ssl.SSLError, OSError) as error:
            log.warning("the renewed certificate cannot be used, the old one stays in force: %s", error)
        else:
            log.info("the renewed certificate %s is in force", self._chain)

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        option, path = "tls_cert", self._chain
        try:
            context.load_cert_chain(self._chain, self._key)
            if self._security.tls_client_ca is not None:
                option, path = "tls_client_ca", self._security.tls_client_ca
                context.load_verify_locations(path)
                context.verify_mode = ssl.CERT_REQUIRED
        except FileNotFoundError:
            missing = next((each for each in (self._chain, self._key, path) if not each.exists()), path)
            raise InvalidInput(f"{option}: there is no file {missing}", field=option) from None
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            both = f"{path}" if path != self._chain or self._key == path else f"{self._chain} with the key {self._key}"
            if path == self._chain == self._key:
                reason = f"{reason}; if its private key is not in it, say where with tls_key"
            raise InvalidInput(f"{option}: {both} cannot be used: {reason}", field=option) from None
        return context

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in (self._chain, self._key):
            try:
                about = path.stat()
            except OSError:  # between two renames
                found.append((0, 0))
            else:
                found.append((about.st_mtime_ns, about.st_size))
        return tuple(found)


def front_of(security: Security, host: str, door: Door, admin_port: int | None) -> Front:
    """`host`: the name that the server was told to listen on. `admin_port`: the one it got."""
    names = security.allowed_hosts
    hosts: Hosts | None = None
    if names and "*" not in names:
        hosts = Hosts((*names, host))
    elif not names and not door.closed and is_local(host):
        hosts = Hosts((host,))
    return Front(hosts, tuple(origin.lower() for origin in security.cors_origins), admin_port)


def check_public(security: Security, host: str, door: Door, *, insecure: bool) -> None:
    """Raises InvalidInput where other machines reach a server that would ask nobody for a key; closes its door for good otherwise."""
    door.give(security.admin_keys)
    field_, reached = "host", host
    if is_local(host) and security.admin_port is not None and not is_local(security.admin_host):
        field_, reached = "admin_host", security.admin_host
    if insecure or is_local(reached):
        return
    if not door.has_keys:
        raise InvalidInput(
            f"{field_}: {reached!r} can be reached from other machines, and there is no key to tell callers apart: anyone could read, "
            "train and delete models. Make one with `everloop keys create` (or give one, EVERLOOP_ADMIN_KEYS), listen on 127.0.0.1, "
            "or say insecure (--insecure) if everyone who can connect may do everything",
            field=field_,
        )
    door.require()


def is_local(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _expect(name: str, good: bool, expected: str, got: object) -> None:
    if not good:
        raise InvalidInput(f"{name}: expected {expected}, got {got!r}", field=name)
