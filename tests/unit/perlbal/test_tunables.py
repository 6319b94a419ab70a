"""The table of parameters: complete, typed, and honest about what is not carried out."""

from __future__ import annotations

import re
import typing

import pytest

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.nodes import Address
from lj_services.perlbal.parameters import Parameters
from lj_services.perlbal.tunables import TUNABLES
from lj_services.perlbal.values import Listen

pytestmark = pytest.mark.unit

ORIGINALS = frozenset(
    """
always_trusted backend_persist_cache blind_proxy buffer_backend_connect buffer_size
buffer_size_reproxy_url buffer_upload_threshold_rate buffer_upload_threshold_size
buffer_upload_threshold_time buffer_uploads buffer_uploads_path client_sndbuf_size
connect_ahead default_service dirindexing docroot enable_concatenate_get enable_delete
enable_error_retries enable_md5 enable_put enable_reproxy enable_ssl error_retry_schedule
high_priority_cookie high_priority_cookie_contents idle_timeout index_files latency listen
max_backend_uses max_chunked_request_size max_put_size min_put_directory persist_backend
persist_client persist_client_idle_timeout persist_client_timeout plugins pool
queue_relief_chance queue_relief_size reproxy_cache_maxsize role server_process
server_tokens ssl_ca_path ssl_cert_file ssl_cipher_list ssl_key_file ssl_verify_mode
trusted_upstream_proxies upload_status_listeners verify_backend verify_backend_path
    """.split()  # noqa: SIM905
)


def test_every_parameter_of_the_original_is_known() -> None:
    assert len(ORIGINALS) == 55
    assert set(TUNABLES) >= ORIGINALS


def test_every_parameter_has_an_attribute_and_a_meaning() -> None:
    assert set(typing.get_type_hints(Parameters)) == set(TUNABLES)
    parameters = Parameters()
    for tunable in TUNABLES.values():
        assert getattr(parameters, tunable.name) == tunable.default
        assert tunable.doc


def test_defaults_are_read_back_from_what_they_are_shown_as() -> None:
    for tunable in TUNABLES.values():
        if tunable.default not in (None, (), ""):
            shown = tunable.kind.show(tunable.default)
            assert tunable.parse(shown, tunable.role) == tunable.default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("persist_client", "Yes", True),
        (
            "upload_status_listeners",
            "10.0.0.1:7000, [::1]:7001",
            (Address("10.0.0.1", 7000), Address("::1", 7001)),
        ),
        ("upload_status_listeners", "none", ()),
        ("sticky_cookie", "lj_node", "lj_node"),
        ("sticky_cookie", "none", ""),
        ("health_check_path", "/health?full=1", "/health?full=1"),
        ("health_check_path", "none", ""),
        ("access_log", "None", ""),
        ("default_service", "undef", ""),
        ("error_pages", "none", None),
        ("reproxy_prefixes", "/srv, http://10.0.0.5:7500/", ("/srv", "http://10.0.0.5:7500/")),
        ("reproxy_prefixes", "none", ()),
        ("persist_client", "0", False),
        ("buffer_size", "256k", 256 << 10),
        ("buffer_size", "10B", 10),
        ("buffer_size", "2M", 2 << 20),
        ("listen", "81", Listen("", 81)),
        ("listen", "192.168.0.1:80", Listen("192.168.0.1", 80)),
        ("listen", "[::1]:80", Listen("::1", 80)),
        ("queue_relief_chance", "100", 100),
        ("index_files", "a.html, b.html", ("a.html", "b.html")),
        ("error_retry_schedule", "0,.25,1", (0.0, 0.25, 1.0)),
    ],
)
def test_values_are_read(name: str, text: str, value: object) -> None:
    tunable = TUNABLES[name]
    assert tunable.parse(text, tunable.role) == value


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("upload_status_listeners", "a:7000", "Expecting ip:port, ..."),
        ("sticky_cookie", "a b", "Expecting letters, digits"),
        # Either would have all nodes left out.
        ("health_check_path", "health", "Expecting /path or * for parameter 'health_check_path'"),
        ("verify_backend_path", "/a b", "Expecting /path or *"),
        ("reproxy_prefixes", "/srv, srv", "Expecting /folder or http://host:port/path"),
        ("reproxy_prefixes", "http:///srv", "Expecting /folder or http://host:port/path"),
        ("persist_client", "maybe", "Expecting boolean value for parameter 'persist_client'"),
        ("connect_ahead", "-1", "Expecting integer value for parameter 'connect_ahead'"),
        ("buffer_size", "1g", "in bytes, or suffixed with 'K' or 'M'"),
        ("listen", "localhost:80", "must be ip:port or port"),
        ("listen", "1.2.3.4:99999", "must be ip:port or port"),
        ("queue_relief_chance", "101", "between 0 and 100"),
        ("trusted_upstream_proxies", "x", "Error defining trusted upstream proxies"),
        ("docroot", "/nowhere/at/all", "not found for 'docroot'"),
        ("error_retry_schedule", "soon", "seconds separated by commas"),
        ("high_priority_cookie_contents", "(", "regular expression"),
    ],
)
def test_bad_values_are_refused_with_the_reason(name: str, text: str, why: str) -> None:
    tunable = TUNABLES[name]
    with pytest.raises(CommandError, match=re.escape(why)):
        tunable.parse(text, tunable.role)


def test_a_parameter_of_another_role_is_refused() -> None:
    with pytest.raises(CommandError, match="only be set on a 'web_server' service"):
        TUNABLES["dirindexing"].parse("on", "reverse_proxy")


def test_what_is_not_carried_out_is_refused_unless_it_is_off() -> None:
    refused = [tunable for tunable in TUNABLES.values() if tunable.refused]
    assert [tunable.name for tunable in refused] == ["server_process"]
    with pytest.raises(CommandError, match="'server_process' is not carried out: run the program"):
        refused[0].parse("/bin/true", "reverse_proxy")
