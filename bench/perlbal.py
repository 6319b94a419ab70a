"""The balancer beside Debian's Perlbal (with IO::AIO and XS headers), HAProxy and nginx.

wrk asks for a file of nginx, through the balancer; or of the balancer itself.  The balancer
has the first core, wrk and nginx behind it have the others; so what counts on a machine of two
cores is the last column, requests by second of the balancer's CPU time.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil

import lj_services
from bench.harness import Comparison, Contender, Load, Subject, free_port, wait_until_it_answers

TITLE = "Load balancer"

CORES = sorted(os.sched_getaffinity(0))
MIB = 1 << 20


@contextmanager
def _running(argv: list[str], port: int, cores: list[int]) -> Iterator[int]:
    """A server on these cores for the length of the block; gives the pid that does the work."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        psutil.Process(process.pid).cpu_affinity(cores)
        wait_until_it_answers(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


_NGINX_SETTINGS = """
worker_processes 1; daemon off; master_process off;
pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 32768; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000000; keepalive_timeout 600;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
"""

_NGINX = (
    _NGINX_SETTINGS
    + """
  server {{
    listen 127.0.0.1:{port} backlog=2048; root {root};
    location = /file {{
      add_header X-Reproxy-File {root}/10m; add_header X-Accel-Redirect /files/10m; return 200;
    }}
    location = /url {{
      add_header X-Reproxy-URL http://127.0.0.1:{port}/10m;
      add_header X-Accel-Redirect /urls/10m; return 200;
    }}
  }}
}}
"""
)
"""Files; and answers that name a file or a URL instead, to Perlbal and to nginx as a proxy."""

NGINX_PROXY = (
    _NGINX_SETTINGS
    + """
  upstream node {{ server 127.0.0.1:{node}; keepalive 1000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    proxy_http_version 1.1; proxy_set_header Connection "";
    location / {{ proxy_pass http://node; }}
    location /files/ {{ internal; alias {root}/; }}
    location /urls/ {{ internal; proxy_pass http://node/; }}
  }}
}}
"""
)

PROXY = """
{extra}
CREATE POOL p
  POOL p ADD 127.0.0.1:{node}
CREATE SERVICE web
  SET role = reverse_proxy
  SET pool = p
  SET listen = 127.0.0.1:{port}
  SET persist_client = on
  SET persist_backend = on
  SET backend_persist_cache = 1000
{settings}
ENABLE web
"""

_FILES = """
{extra}
CREATE SERVICE web
  SET role = web_server
  SET docroot = {root}
  SET listen = 127.0.0.1:{port}
  SET persist_client = on
ENABLE web
"""

HAPROXY = """
global
  nbthread 1
  maxconn 19000
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{node}
"""

XS = "XS enable headers"
"""Has Perlbal parse heads in C."""

Words = Callable[[Path], list[str]]


def run_ours(file: Path) -> list[str]:
    lj = str(Path(sys.executable).parent / "lj")
    return [lj, "perlbal", "serve", "--config", str(file), "--listen", "127.0.0.1:0"]


def run_perlbal(file: Path) -> list[str]:
    return ["perlbal", f"--config={file}"]


def run_haproxy(file: Path) -> list[str]:
    return ["haproxy", "-db", "-f", str(file)]


def run_nginx(file: Path) -> list[str]:
    return ["nginx", "-c", str(file)]


@contextmanager
def contender(
    text: str, words: Words, settings: str = "", extra: str = "", node: int | None = None
) -> Iterator[Subject]:
    """A balancer or web server.

    Args:
        text: of its configuration, with names in braces for what is filled in.
        words: what starts it with a file that has this text.
        settings: lines about the service.
        extra: lines before it.
        node: port of the server behind it; None: nginx, started for it.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        root = folder / "files"
        root.mkdir()
        (root / "1k").write_bytes(b"x" * 1024)
        (root / "10m").write_bytes(os.urandom(10 * MIB))
        port = free_port()
        if node is None:
            node = free_port()
            behind = folder / "behind.conf"
            behind.write_text(_NGINX.format(folder=folder, port=node, root=root))
            stack.enter_context(_running(run_nginx(behind), node, CORES[1:] or CORES))
        file = folder / "contender.conf"
        file.write_text(
            text.format(
                folder=folder, node=node, port=port, root=root, settings=settings, extra=extra
            )
        )
        pid = stack.enter_context(_running(words(file), port, CORES[:1]))
        yield Subject(f"http://127.0.0.1:{port}", pid)


def wrk(subject: Subject, *, path: str, clients: int, duration_s: int, figure: str) -> float:
    """Requests (or MiB) a second that wrk counts."""
    generator = ["taskset", "-c", ",".join(map(str, CORES[1:] or CORES))]
    words = ["wrk", "-t1", f"-c{clients}", f"-d{duration_s}s", subject.value + path]
    done = subprocess.run([*generator, *words], capture_output=True, text=True, check=True)
    bad = re.search(r"Non-2xx|Socket errors: .*(?:connect|read|write) [1-9]", done.stdout)
    found = re.search(r"(\d+) requests in ([\d.]+)s", done.stdout)
    if bad or found is None:
        raise RuntimeError(f"wrk met errors:\n{done.stdout}")
    rate = float(found[1]) / float(found[2])
    return rate * 10 if figure == "MiB" else rate


def _version(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[.\d]*", done.stdout + done.stderr)
    return found[0] if found else "?"


Start = Callable[[], AbstractContextManager[Subject]]


def ours(start: Start) -> Contender:
    """Ours, started by `start`."""
    uvloop = importlib.metadata.version("uvloop")
    version = f"{lj_services.__version__} (uvloop {uvloop})"
    return Contender("lj perlbal serve", version, start)


def perlbal(start: Start) -> Contender:
    """Debian's Perlbal."""
    words = ("dpkg-query", "--show", "--showformat=${Version}", "perlbal")
    version = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return Contender("Perlbal", f"{version} with IO::AIO and XS headers", start)


def haproxy(start: Start) -> Contender:
    """HAProxy."""
    return Contender("HAProxy, one thread", _version("haproxy", "-v"), start)


def nginx(start: Start) -> Contender:
    """nginx."""
    return Contender("nginx, one worker", _version("nginx", "-v"), start)


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Proxying to nginx, and files."""
    ask = partial(partial, wrk, duration_s=1 if quick else 2)
    small = [
        Load("1 KiB, 32 clients", "requests/s", ask(path="/1k", clients=32, figure="requests")),
        Load("1 KiB, 512 clients", "requests/s", ask(path="/1k", clients=512, figure="requests")),
    ]
    large = [Load("10 MiB, 8 clients", "MiB/s", ask(path="/10m", clients=8, figure="MiB"))]
    proxy = partial(contender, PROXY, run_ours)
    files = partial(contender, _FILES, run_ours)
    yield Comparison(
        "Reverse proxy beside Perlbal",
        ours=ours(proxy),
        peer=perlbal(partial(contender, PROXY, run_perlbal, extra=XS)),
        loads=small,
        goal="five times Perlbal's requests a second",
    )
    yield Comparison(
        "Reverse proxy beside HAProxy",
        ours=ours(proxy),
        peer=haproxy(partial(contender, HAPROXY, run_haproxy)),
        loads=small + large,
        goal="0.7 of HAProxy's requests a second",
    )
    yield Comparison(
        "Reverse proxy with verify_backend, a high-priority cookie and relief, beside one without",
        ours=ours(
            partial(
                contender,
                PROXY,
                run_ours,
                settings="  SET verify_backend = on\n  SET verify_backend_path = /1k\n"
                "  SET high_priority_cookie = paid\n  SET queue_relief_size = 100\n"
                "  SET queue_relief_chance = 20\n",
            )
        ),
        peer=ours(proxy),
        loads=small[:1],
        goal="at least 0.9",
    )
    yield Comparison(
        "Web server beside Perlbal",
        ours=ours(files),
        peer=perlbal(partial(contender, _FILES, run_perlbal, extra=XS)),
        loads=small[:1],
        goal="five times Perlbal's requests a second",
    )
    yield Comparison(
        "Web server beside nginx",
        ours=ours(files),
        peer=nginx(partial(contender, _NGINX, run_nginx)),
        loads=small[:1] + large,
        goal="0.9 of nginx's throughput of large files, and at most 1.2 times its CPU for a byte "
        "(a ratio of 0.83 for a CPU second)",
    )
    yield Comparison(
        "Reproxied beside nginx's X-Accel-Redirect",
        ours=ours(partial(contender, PROXY, run_ours, settings="  SET enable_reproxy = on\n")),
        peer=nginx(partial(contender, NGINX_PROXY, run_nginx)),
        loads=[
            Load("10 MiB, a file, 8 clients", "MiB/s", ask(path="/file", clients=8, figure="MiB")),
            Load("10 MiB, a URL, 8 clients", "MiB/s", ask(path="/url", clients=8, figure="MiB")),
        ],
        goal="0.9 of nginx's throughput, and at most 1.2 times its CPU for a byte (a ratio of "
        "0.83 for a CPU second)",
    )
