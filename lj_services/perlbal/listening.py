"""What a service listens on: bound at once, so that a command can say what went wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.errors import CommandError

if TYPE_CHECKING:
    from lj_services.perlbal.service import Service

BACKLOG: Final = 1024

log = logging.getLogger(__name__)


class Listener:
    """One listening socket of a service.

    Raises:
        CommandError: the address can't be bound, or certificates can't be used.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        parameters = service.parameters
        listen = parameters.listen
        if listen is None or service.role is None:
            raise CommandError(f"service {service.name} has no address to listen on")
        self.address = str(listen)
        self._context = tls_context(service) if parameters.enable_ssl else None
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if parameters.client_sndbuf_size:
                # Accepted sockets inherit it.
                self._socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, parameters.client_sndbuf_size
                )
            self._socket.bind((listen.host, listen.port))
            self._socket.listen(BACKLOG)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise CommandError(
                f"Can't start service '{service.name}' on {self.address}: {error.strerror}"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        self.fd = self._socket.fileno()
        self._server: asyncio.AbstractServer | None = None
        self._closed = False
        self._starting = asyncio.get_running_loop().create_task(self._start(service.role))

    async def _start(self, role: Any) -> None:
        server = await asyncio.get_running_loop().create_server(
            role.connection, sock=self._socket, ssl=self._context, backlog=BACKLOG
        )
        if self._closed:
            server.close()
        else:
            self._server = server

    def close(self) -> None:
        """Listen no more; connections stay."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        elif self._starting.done():
            self._socket.close()

    def reload_tls(self) -> None:
        """Read the certificates again, for connections from now on.

        Raises:
            CommandError: they can't be used; the old ones stay.
        """
        if self._context is not None:
            tls_context(self.service)
            _load(self._context, self.service)

    def __str__(self) -> str:
        return f"listening on {self.address} for service '{self.service.name}'"


def tls_context(service: Service) -> ssl.SSLContext:
    """The TLS context that a service's parameters describe.

    Raises:
        CommandError: a file is missing or can't be used.
    """
    parameters = service.parameters
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(parameters.ssl_cipher_list)
    except ssl.SSLError:
        raise CommandError(
            f"ssl_cipher_list: '{parameters.ssl_cipher_list}' selects no cipher"
        ) from None
    if parameters.ssl_honor_cipher_order:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    if parameters.ssl_ca_path is not None:
        context.load_verify_locations(capath=str(parameters.ssl_ca_path))
    context.verify_mode = {0: ssl.CERT_NONE, 1: ssl.CERT_OPTIONAL}.get(
        parameters.ssl_verify_mode, ssl.CERT_REQUIRED
    )
    context.set_alpn_protocols(["http/1.1"])
    _load(context, service)
    return context


def _load(context: ssl.SSLContext, service: Service) -> None:
    parameters = service.parameters
    if parameters.ssl_cert_file is None or parameters.ssl_key_file is None:
        raise CommandError(
            f"service {service.name}: enable_ssl needs ssl_cert_file and ssl_key_file"
        )
    try:
        context.load_cert_chain(parameters.ssl_cert_file, parameters.ssl_key_file)
    except (OSError, ssl.SSLError) as error:
        raise CommandError(
            f"certificate {parameters.ssl_cert_file} with key {parameters.ssl_key_file} "
            f"can't be used: {error}"
        ) from None
