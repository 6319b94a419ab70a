"""A selector that chooses by host: ours alone."""

from __future__ import annotations

import json

import pytest

from tests.support.perlbal import (
    Node,
    Start,
    echoing,
)

pytestmark = pytest.mark.faults


def test_a_selector_chooses_by_host(start_balancer: Start, node: Node) -> None:
    with echoing("other") as other:
        config = (
            f"LOAD Vhosts\nCREATE POOL p\n  POOL p ADD {node.address}\n"
            f"CREATE POOL q\n  POOL q ADD {other.address}\n"
            "CREATE SERVICE a\n  SET role = reverse_proxy\n  SET pool = p\nENABLE a\n"
            "CREATE SERVICE b\n  SET role = reverse_proxy\n  SET pool = q\nENABLE b\n"
            "CREATE SERVICE front\n  SET role = selector\n  SET plugins = Vhosts\n"
            "  SET persist_client = on\n  SET listen = 127.0.0.1:PORT\n"
            "  VHOST www.example.com = a\n  VHOST *.example.com = b\n"
            "  VHOST front x.example.org;using:y.example.org = b\nENABLE front\n"
        )
        balancer = start_balancer(config)
        with balancer.talk() as talk:

            def asked(host: str, path: str = "/") -> object:
                answer = talk.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                return json.loads(answer.body)["node"] if answer.status == 200 else answer.status

            assert asked("www.example.com") == "node"
            assert asked("WWW.Example.com.:8080") == "node"
            assert asked("joe.example.com") == "other"
            assert asked("example.com") == "other"
            assert asked("example.org") == 404
            assert asked("x.example.org", "/__using/y.example.org/a") == "other"
            balancer.command("SET front.default_service = a")
            assert asked("example.org") == "node"
            head = b"POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 2\r\n\r\nhi"
            assert talk.ask(head).json["body"] == "hi"
        assert balancer.command("plugins") == ["front Vhosts"]
