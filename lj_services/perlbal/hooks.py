"""Hooks: the points in a request's way at which plug-ins may look, change, or take over.

A plug-in registers functions for a service, under the points' names.  At a point they are
called in the order in which the plug-ins are listed; for points that can be taken over, the
first one that returns a true value has taken over, and the rest is not asked.

=============================  ==========================  ===================================
point                          arguments                   a true value means
=============================  ==========================  ===================================
start_http_request             client                      answered: nothing else happens
start_proxy_request            client                      the same, for a reverse proxy
start_web_request              client                      the same, for a web server
start_serve_request            client                      answered: no file is looked for;
                                                           ``client.request.target`` may be
                                                           changed
handle_put                     client                      taken over: body and answer
put_writeout                   client, data                the piece is not written
proxy_read_request             exchange                    the same, when the body is taken in
make_high_priority             client                      the high queue
make_low_priority              client                      the low queue
backend_client_assigned        exchange, lines             answered: the node is not asked;
                                                           `lines` go to the node, and may be
                                                           changed in place
backend_response_received      exchange, response          the response was taken care of
reproxy_response_received      exchange, response          the same, of a URL's server
modify_response_headers        client, response            (not asked for)
prepend_body                   client, response            (bytes:) sent before the body that
                                                           comes from a node; what its length
                                                           becomes says `response`, before
start_send_file                client                      answered: the file is not sent
start_file_reproxy             client, path                answered
reproxy_fh_finished            client                      (not asked for:) that file was sent
static_get_poststat_pre_send   client, modified            answered: the file, changed at that
                                                           second, is not sent
static_get_poststat_file_...   client                      answered: there is no such file
  missing
concat_get_poststat_pre_send   client, modified            the same two for several files at
concat_get_poststat_file_...   client                      once
  missing
select_service                 client                      (not a truth value:) the `Service`
                                                           that takes the request, or None
return_to_base                 client                      of a selector: the next request on
                                                           the connection is for the service
                                                           that had this one, too
end_proxy_request              exchange                    (not asked for)
=============================  ==========================  ===================================

`client` is a `frontend.ClientConnection`: ``client.request`` is the request's head, and
``client.answer`` sends a whole response.  `exchange` is a `proxy.exchange.Exchange`.

Source: Perlbal::Manual::Hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Hook = Callable[..., Any]

POINTS: Final = frozenset(
    {
        "start_http_request",
        "start_proxy_request",
        "start_web_request",
        "start_serve_request",
        "handle_put",
        "put_writeout",
        "proxy_read_request",
        "make_high_priority",
        "make_low_priority",
        "backend_client_assigned",
        "backend_response_received",
        "reproxy_response_received",
        "modify_response_headers",
        "prepend_body",
        "start_file_reproxy",
        "reproxy_fh_finished",
        "start_send_file",
        "static_get_poststat_pre_send",
        "static_get_poststat_file_missing",
        "concat_get_poststat_pre_send",
        "concat_get_poststat_file_missing",
        "select_service",
        "return_to_base",
        "end_proxy_request",
    }
)


class Hooks:
    """What plug-ins have registered for one service."""

    def __init__(self) -> None:
        self.by_point: dict[str, list[tuple[str, Hook]]] = {}
        """Who waits where; asked directly where every request comes by."""

    def register(self, plugin: str, point: str, hook: Hook) -> None:
        """Have `hook` called at `point`.

        Raises:
            ValueError: there is no such point.
        """
        if point not in POINTS:
            raise ValueError(f"no hook point {point!r}; there are {', '.join(sorted(POINTS))}")
        self.by_point.setdefault(point, []).append((plugin, hook))

    def unregister(self, plugin: str) -> None:
        """Forget everything that a plug-in has registered."""
        for point, entries in list(self.by_point.items()):
            kept = [entry for entry in entries if entry[0] != plugin]
            if kept:
                self.by_point[point] = kept
            else:
                del self.by_point[point]

    def __contains__(self, point: str) -> bool:
        """Whether anybody waits at `point`: what is asked first, as it costs next to nothing."""
        return point in self.by_point

    def run(self, point: str, *arguments: Any) -> bool:
        """Call what waits at `point` until one returns a true value; returns whether one did."""
        return any(hook(*arguments) for _plugin, hook in self.by_point.get(point, ()))

    def ask(self, point: str, *arguments: Any) -> Any:
        """The first true value that something that waits at `point` returns, or None."""
        for _plugin, hook in self.by_point.get(point, ()):
            if (answer := hook(*arguments)) is not None:
                return answer
        return None

    def run_all(self, point: str, *arguments: Any) -> None:
        """Call everything that waits at `point`."""
        for _plugin, hook in self.by_point.get(point, ()):
            hook(*arguments)
