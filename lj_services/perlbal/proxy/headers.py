"""What a node is sent of a request's head, and a client of a response's.

Who is believed: X-Forwarded-For, X-Forwarded-Host and X-Host say who a client is and what
it asked for; anybody can send them.  They are passed on only from peers that are trusted
(``trusted_upstream_proxies``, ``always_trusted``), with the peer's address added; from others
X-Forwarded-For is replaced, and the other two are taken away.

Source: Perlbal 1.80, doc/service-parameters.txt; RFC 9110 section 7.6.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.http.head import CHUNKED, FORWARDED, RequestHead, ResponseHead
from lj_services.perlbal.values import Network

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_CAPABILITIES: Final = b"x-proxy-capabilities"


@lru_cache(maxsize=4096)
def in_networks(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address is in one of the networks; False for what is no address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in networks)


def trusted(service: Service, peer: str) -> bool:
    """Whether what `peer` says about clients is believed."""
    parameters = service.parameters
    if parameters.always_trusted:
        return True
    networks = parameters.trusted_upstream_proxies
    return bool(networks) and in_networks(peer, networks)


def observed_ip(service: Service, request: RequestHead, peer: str) -> str:
    """The client's address according to proxies that are trusted; empty without any.

    It is the last one in X-Forwarded-For that is not such a proxy itself, as everything
    before it may be made up.
    """
    forwarded = request.fields.get(b"x-forwarded-for")
    if forwarded is None or not trusted(service, peer):
        return ""
    networks = service.parameters.trusted_upstream_proxies
    addresses = [word.strip() for word in forwarded.decode("latin-1").split(",")]
    for address in reversed(addresses):
        if not (networks and in_networks(address, networks)):
            try:
                return str(ipaddress.ip_address(address))
            except ValueError:
                return ""
    return ""


def lines_for_node(client: ClientConnection, request: RequestHead, service: Service) -> list[bytes]:
    """The fields of a request for a node, without those that frame it."""
    lines = request.kept_lines()
    fields = request.fields
    parameters = service.parameters
    if not parameters.blind_proxy:
        peer = client.peer.encode()
        if b"x-forwarded-for" in fields or b"x-host" in fields or b"x-forwarded-host" in fields:
            if trusted(service, client.peer):
                if b"x-forwarded-for" in fields:
                    lines = _without(lines, {b"x-forwarded-for"})
                    peer = b"%b, %b" % (fields[b"x-forwarded-for"], peer)
            else:
                lines = _without(lines, FORWARDED)
        lines.append(b"X-Forwarded-For: " + peer)
    if _CAPABILITIES in fields:
        lines = _without(lines, {_CAPABILITIES})
    if parameters.enable_reproxy:
        lines.append(b"X-Proxy-Capabilities: reproxy-file")
    if service.remove:
        lines = _without(lines, set(service.remove))
    for name, value in service.insert:
        # In the place of what a client says under this name.
        lines = _without(lines, {name.lower()})
        lines.append(b"%b: %b" % (name, value))
    return lines


def _without(lines: list[bytes], names: set[bytes] | frozenset[bytes]) -> list[bytes]:
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def head_for_node(
    request: RequestHead, lines: list[bytes], *, persist: bool, body: int | None
) -> bytes:
    """A request's head as a node is sent it.

    Args:
        request: as the client sent it.
        lines: its fields.
        persist: whether the connection to the node is to be kept.
        body: the length of a body that came in chunks and is whole; None: as it came.
    """
    if request.upgrade:
        lines.append(b"Upgrade: " + request.upgrade)
        connection = b"Connection: Upgrade"
    else:
        connection = b"Connection: keep-alive" if persist else b"Connection: close"
    lines.append(connection)
    if request.length == CHUNKED:
        if body is None:
            lines.append(b"Transfer-Encoding: chunked")
        else:
            lines.append(b"Content-Length: %d" % body)
    # Without a Host it can't be a request of HTTP/1.1.
    version = 1 if b"host" in request.fields else 0
    return b"%b %b HTTP/1.%d\r\n%b\r\n\r\n" % (
        request.method,
        request.target,
        version,
        b"\r\n".join(lines),
    )


def head_for_client(response: ResponseHead, request: RequestHead, *, keep_alive: bool) -> bytes:
    """A response's head as a client is sent it.

    Args:
        response: as the node sent it.
        request: that it answers.
        keep_alive: whether the client's connection will be kept.
    """
    framing = b""
    if request.minor and response.length < 0:
        framing = b"Transfer-Encoding: chunked\r\n"
    if not keep_alive:
        framing += b"Connection: close\r\n"
    elif not request.minor:
        framing += b"Connection: keep-alive\r\n"
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (
        response.status,
        response.reason,
        response.kept_block() if response.kept is None else response.kept,
        framing,
    )
