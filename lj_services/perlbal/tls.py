"""TLS of a service: its certificates by host name, and their replacement while it is used.

Theory of operation
===================

A server of asyncio keeps the one context that it was given.  That context (`Tls.context`)
has no certificate; for every handshake it asks which context to go on with, by the host
name that the client has sent (SNI), or None.  What it answers from is one `_Certificates`,
made as a whole and never changed: replacing certificates is one assignment, and a handshake
sees either all old ones or all new ones.  Connections keep what they were made with.

Nothing is replaced unless everything can be used: files are read, keys are compared with
certificates (`Tls.read`) and dates looked at (`reload`) before.  A service that begins has
nothing better, so one that is out of date is served all the same, and the log says so: a
certificate that was forgotten must not take the other services down with it.

Host names are the certificates' own (subjectAltName, RFC 6125): ``*.example.com`` is for one
label in the place of the star.
"""

from __future__ import annotations

import datetime
import logging
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from lj_services.perlbal.errors import CommandError

if TYPE_CHECKING:
    from lj_services.perlbal.parameters import Parameters
    from lj_services.perlbal.service import Service

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Certificate:
    """What the first certificate of a file says.

    Attributes:
        file: where it is.
        names: host names that it is for, in lower case; empty if it tells none.
        begins: from when it is valid, UTC.
        expires: when it ends, UTC.
    """

    file: Path
    names: tuple[str, ...]
    begins: datetime.datetime
    expires: datetime.datetime

    def out_of_date(self) -> str | None:
        """Why browsers would not take it today, and what to do; None if they would."""
        now = datetime.datetime.now(datetime.UTC)
        if self.expires < now:
            return (
                f"certificate {self.file} expired on {self.expires:%Y-%m-%d %H:%M} UTC; renew it "
                "and put the new one there"
            )
        if self.begins > now:
            return (
                f"certificate {self.file} is not valid before {self.begins:%Y-%m-%d %H:%M} UTC; "
                "is this host's clock right?"
            )
        return None

    def __str__(self) -> str:
        names = ", ".join(self.names) or "(no names)"
        return f"{self.file} until {self.expires:%Y-%m-%d %H:%M} UTC for {names}"


def read_certificate(file: Path) -> Certificate:
    """Look at a certificate chain, PEM.

    Raises:
        CommandError: it is missing, or is none.
    """
    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise CommandError(
            f"certificate {file} can't be read: {error.strerror}; put it there, readable for "
            "the balancer's user"
        ) from None
    except ValueError:
        raise CommandError(
            f"certificate {file} is no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        ) from None
    leaf = chain[0]
    try:
        told = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(map(str.lower, told.get_values_for_type(x509.DNSName)))
    except x509.ExtensionNotFound:
        names = ()
    return Certificate(file, names, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


@dataclass(frozen=True)
class _Certificates:
    """All certificates of one service, as they were when they were read."""

    default: ssl.SSLContext
    by_name: dict[str, ssl.SSLContext]
    known: tuple[Certificate, ...]

    def context(self, name: str | None) -> ssl.SSLContext:
        """What to go on with for a client that asks for `name`."""
        if not self.by_name or name is None:
            return self.default
        name = name.lower().rstrip(".")
        found = self.by_name.get(name)
        if found is None:
            found = self.by_name.get("*." + name.partition(".")[2], self.default)
        return found


class Tls:
    """The TLS side of a service that listens.

    Attributes:
        context: what the server is to be given.

    Raises:
        CommandError: a certificate or a parameter can't be used.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._certificates = self.read()
        for certificate in self._certificates.known:
            if why := certificate.out_of_date():
                log.warning("service %s: %s", service.name, why)
        self.context = _context(service.parameters)
        self.context.sni_callback = self._choose

    @property
    def patience_s(self) -> int:
        """How long a client may take for the handshake, in seconds: as for a request's head."""
        return max(self._service.parameters.idle_timeout, 1)

    @property
    def known(self) -> tuple[Certificate, ...]:
        """The certificates in use: the default one, then those by host name."""
        return self._certificates.known

    def read(self) -> _Certificates:
        """Read what the service's parameters name; nothing is changed.

        Raises:
            CommandError: a file can't be used; names it, and says what to do.
        """
        parameters = self._service.parameters
        if parameters.ssl_cert_file is None or parameters.ssl_key_file is None:
            raise CommandError(
                f"service {self._service.name}: enable_ssl needs ssl_cert_file and ssl_key_file"
            )
        certificate = read_certificate(parameters.ssl_cert_file)
        default = _with_certificate(parameters, certificate, parameters.ssl_key_file)
        known = [certificate]
        by_name = {}
        for found in sorted(_in_folder(parameters.ssl_sni_path), key=lambda each: each.expires):
            # Of two for one name, the one that lasts longer.
            context = _with_certificate(parameters, found, found.file)
            by_name.update(dict.fromkeys(found.names, context))
            known.append(found)
        return _Certificates(default, by_name, tuple(known))

    def use(self, certificates: _Certificates) -> None:
        """Take what `read` has read, for handshakes from now on."""
        _configure(self.context, self._service.parameters)
        self._certificates = certificates

    def _choose(
        self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._certificates.context(name)


def reload(services: Iterable[Service]) -> list[Certificate]:
    """Read all certificates of services that listen again; connections stay as they are.

    Returns:
        the certificates that are in use now.

    Raises:
        CommandError: one can't be used or is out of date; all old ones, of every service, stay.
    """
    listeners = [service.listener for service in services if service.listener is not None]
    sides = [listener.tls for listener in listeners if listener.tls is not None]
    new = [(side, side.read()) for side in sides]
    for certificate in (each for _, certificates in new for each in certificates.known):
        if why := certificate.out_of_date():
            raise CommandError(why)
    for side, certificates in new:
        side.use(certificates)
    return [certificate for side in sides for certificate in side.known]


def _in_folder(folder: Path | None) -> list[Certificate]:
    if folder is None:
        return []
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".pem")
    except OSError as error:
        raise CommandError(f"ssl_sni_path {folder} can't be read: {error.strerror}") from None
    found = [read_certificate(file) for file in files]
    for certificate in found:
        if not certificate.names:
            raise CommandError(
                f"certificate {certificate.file} tells no host name, so that nobody would get "
                "it; have one made with subjectAltName, or take it out of ssl_sni_path"
            )
    return found


def _context(parameters: Parameters) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    _configure(context, parameters)
    return context


def _configure(context: ssl.SSLContext, parameters: Parameters) -> None:
    try:
        context.set_ciphers(parameters.ssl_cipher_list)
    except ssl.SSLError:
        raise CommandError(
            f"ssl_cipher_list: '{parameters.ssl_cipher_list}' selects no cipher"
        ) from None
    if parameters.ssl_honor_cipher_order:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if parameters.ssl_ca_path is not None:
        context.load_verify_locations(capath=str(parameters.ssl_ca_path))
    context.verify_mode = {0: ssl.CERT_NONE, 1: ssl.CERT_OPTIONAL}.get(
        parameters.ssl_verify_mode, ssl.CERT_REQUIRED
    )


def _with_certificate(
    parameters: Parameters, certificate: Certificate, key: Path
) -> ssl.SSLContext:
    context = _context(parameters)
    encrypted = False

    def passphrase() -> str:
        # Without this, OpenSSL would ask on the terminal, and wait.
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        context.load_cert_chain(certificate.file, key, passphrase)
    except ssl.SSLError as error:
        if encrypted:
            why = "is encrypted; write it without its passphrase: openssl pkey -in OLD -out NEW"
        elif error.reason == "KEY_VALUES_MISMATCH":
            why = (
                f"does not belong to certificate {certificate.file}; put the key there that the "
                "certificate was made for"
            )
        else:
            why = f"can't be used with certificate {certificate.file}: is it a private key, PEM?"
        raise CommandError(f"key {key} {why}") from None
    except OSError as error:
        raise CommandError(
            f"key {key} can't be read: {error.strerror}; put it there, readable for the "
            "balancer's user"
        ) from None
    return context
