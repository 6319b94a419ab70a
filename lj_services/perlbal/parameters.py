"""The values that a service's parameters have; the table of what they are is `tunables`.

A class with an attribute each, and not a dictionary, because requests read them.  Defaults
are the table's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lj_services.perlbal.nodes import Address
from lj_services.perlbal.tunables import TUNABLES, Tunable
from lj_services.perlbal.values import Listen, Network


class Parameters:
    """One service's values, by the parameters' names."""

    access_log: str
    access_log_format: str
    always_trusted: bool
    backend_connect_timeout: int
    backend_persist_cache: int
    backend_response_timeout: int
    blind_proxy: bool
    buffer_backend_connect: int
    buffer_size: int
    buffer_size_reproxy_url: int
    buffer_upload_threshold_rate: int
    buffer_upload_threshold_size: int
    buffer_upload_threshold_time: int
    buffer_uploads: bool
    buffer_uploads_limit: int
    buffer_uploads_path: Path | None
    client_sndbuf_size: int
    connect_ahead: int
    default_service: str
    dirindexing: bool
    docroot: Path | None
    enable_concatenate_get: bool
    enable_delete: bool
    enable_error_retries: bool
    enable_md5: bool
    enable_put: bool
    enable_reproxy: bool
    enable_ssl: bool
    error_retry_schedule: tuple[float, ...]
    error_pages: Path | None
    health_check_interval: int
    health_check_path: str
    high_priority_cookie: str
    high_priority_cookie_contents: re.Pattern[bytes] | None
    idle_timeout: int
    index_files: tuple[str, ...]
    latency: int
    listen: Listen | None
    low_priority_cookie: str
    low_priority_cookie_contents: re.Pattern[bytes] | None
    max_backend_uses: int
    max_chunked_request_size: int
    max_put_size: int
    min_put_directory: int
    persist_backend: bool
    persist_client: bool
    persist_client_idle_timeout: int
    persist_client_timeout: int
    plugins: tuple[str, ...]
    pool: str
    queue_max_size: int
    queue_relief_age: int
    queue_relief_chance: int
    queue_relief_size: int
    queue_timeout: int
    reproxy_cache_maxsize: int
    reproxy_prefixes: tuple[str, ...]
    role: str
    server_process: Path | None
    server_tokens: bool
    ssl_ca_path: Path | None
    ssl_cert_file: Path | None
    ssl_cipher_list: str
    ssl_honor_cipher_order: bool
    ssl_key_file: Path | None
    ssl_sni_path: Path | None
    ssl_verify_mode: int
    sticky_address: bool
    sticky_cookie: str
    trusted_upstream_proxies: tuple[Network, ...]
    upload_status_listeners: tuple[Address, ...]
    verify_backend: bool
    verify_backend_path: str

    def __init__(self, tunables: Mapping[str, Tunable] = TUNABLES) -> None:
        for tunable in tunables.values():
            setattr(self, tunable.name, tunable.default)

    def __getitem__(self, name: str) -> Any:
        """The value of a parameter that a plug-in has added."""
        return getattr(self, name)
