"""TLS: certificates by host name, bad ones, and their replacement under load: curl and openssl."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.perlbal import LJ, Balancer, Node, Start, get, proxy, starting
from tests.support.process import free_port, wait_for

pytestmark = pytest.mark.faults

LONGEST_WAIT_S = 20


def _run(*words: str | Path, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(word) for word in words],
        input=said,
        capture_output=True,
        timeout=LONGEST_WAIT_S,
        check=False,
    )


def certificate(
    folder: Path, stem: str, *names: str, days: tuple[str, str] | None = None
) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key; `days` are its first and last day."""
    cert, key = folder / f"{stem}.crt", folder / f"{stem}.key"
    made = _run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-keyout", key, "-out", cert, "-days", "30", "-subj", f"/CN={stem}"),
        *(("-addext", "subjectAltName=" + ",".join(f"DNS:{n}" for n in names)) if names else ()),
    )
    assert made.returncode == 0, made.stderr
    if days is not None:
        request = folder / f"{stem}.csr"
        store = folder / f"{stem}-ca"
        store.mkdir()
        (store / "index").touch()
        (store / "conf").write_text(
            "[ca]\ndefault_ca = own\n[own]\n"
            f"database = {store}/index\nnew_certs_dir = {store}\nrand_serial = yes\n"
            "default_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n"
        )
        made = _run("openssl", "req", "-new", "-key", key, "-out", request, "-subj", f"/CN={stem}")
        assert made.returncode == 0, made.stderr
        made = _run(
            *("openssl", "ca", "-batch", "-selfsign", "-config", store / "conf", "-in", request),
            *("-keyfile", key, "-out", cert, "-notext"),
            *("-startdate", days[0], "-enddate", days[1]),
        )
        assert made.returncode == 0, made.stderr
    return cert, key


def bundle(folder: Path, file: Path, stem: str, *names: str) -> None:
    """A chain and its key in one file, put in place at once."""
    cert, key = certificate(folder, stem, *names)
    new = file.with_suffix(".new")
    new.write_bytes(cert.read_bytes() + key.read_bytes())
    new.replace(file)


def shown(port: int, *words: str) -> str:
    """The subject of the certificate that `openssl s_client` is shown."""
    result = _run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *words, said=b"Q\n")
    found = [line for line in result.stdout.decode().splitlines() if line.startswith("subject=")]
    assert found, result.stderr
    return found[0].rpartition("=")[2].strip()


@dataclass
class Site:
    """A proxy that speaks TLS, and the files that it has been given."""

    balancer: Balancer
    cert: Path
    key: Path
    folder: Path
    hosts: Path

    @property
    def port(self) -> int:
        return self.balancer.port

    def put(self, pair: tuple[Path, Path]) -> None:
        """New files in the place of those that are used."""
        for new, used in zip(pair, (self.cert, self.key), strict=True):
            shutil.copy(new, used)


def settings(cert: Path, key: Path, more: str = "") -> str:
    return (
        f"  SET enable_ssl = on\n  SET ssl_cert_file = {cert}\n  SET ssl_key_file = {key}\n"
        f"  SET persist_client = on\n  SET persist_backend = on\n{more}"
    )


MakeSite = Callable[[str], Site]


@pytest.fixture
def make_site(tmp_path: Path, node: Node) -> Iterator[MakeSite]:
    with starting(tmp_path) as start:

        def make(more: str = "") -> Site:
            hosts = tmp_path / "hosts"
            hosts.mkdir()
            bundle(tmp_path, hosts / "a.pem", "alpha", "alpha.example", "www.alpha.example")
            bundle(tmp_path, hosts / "b.pem", "stars", "*.beta.example")
            cert, key = certificate(tmp_path, "used", "used.example")
            shown_folder = f"  SET ssl_sni_path = {hosts}\n"
            config = proxy(node.address, settings=settings(cert, key, shown_folder + more))
            return Site(start(config), cert, key, tmp_path, hosts)

        yield make


def test_the_certificate_is_the_one_for_the_host_that_is_asked_for(make_site: MakeSite) -> None:
    site = make_site("")
    by_name = {
        "alpha.example": "alpha",
        "WWW.alpha.example": "alpha",
        "one.beta.example": "stars",
        "two.one.beta.example": "used",
        "beta.example": "used",
        "other.example": "used",
    }
    for version in ("-tls1_2", "-tls1_3"):
        found = {name: shown(site.port, version, "-servername", name) for name in by_name}
        assert found == by_name
        assert shown(site.port, version, "-noservername") == "used"
    # curl checks the name, and what certificate vouches for it.
    for name, ca in (("alpha.example", "alpha.crt"), ("used.example", "used.crt")):
        result = _run(
            *("curl", "-sS", "--cacert", site.folder / ca, f"https://{name}:{site.port}/x"),
            *("--resolve", f"{name}:{site.port}:127.0.0.1"),
        )
        assert result.returncode == 0, result.stderr
        assert b'"path": "/x"' in result.stdout
    lines = site.balancer.command("certificates")
    assert [line.split()[1] for line in lines] == [
        str(site.cert),
        str(site.hosts / "a.pem"),
        str(site.hosts / "b.pem"),
    ]
    assert lines[1].endswith("for alpha.example, www.alpha.example")


def test_ciphers_and_clients_certificates_are_as_set(make_site: MakeSite) -> None:
    site = make_site("  SET ssl_cipher_list = ECDHE-ECDSA-AES256-GCM-SHA384\n")
    url = f"https://127.0.0.1:{site.port}/"
    curl = ("curl", "-sSk", "--tls-max", "1.2", "--ciphers")
    assert _run(*curl, "ECDHE-ECDSA-AES256-GCM-SHA384", url).returncode == 0
    assert _run(*curl, "ECDHE-ECDSA-AES128-GCM-SHA256", url).returncode != 0
    # What clients show is vouched for by a folder with names that are digests.
    vouching = site.folder / "vouching"
    vouching.mkdir()
    cert, key = certificate(site.folder, "client", "client.example")
    other = certificate(site.folder, "stranger", "stranger.example")
    shutil.copy(cert, vouching / "client.pem")
    assert _run("openssl", "rehash", vouching).returncode == 0
    for line in (f"SET web.ssl_ca_path = {vouching}", "SET web.ssl_verify_mode = 2"):
        assert site.balancer.command(line) == ["OK"]
    assert site.balancer.command("certificates reload")[0].startswith("web ")
    assert _run("curl", "-sSk", url).returncode != 0
    assert _run("curl", "-sSk", "--cert", other[0], "--key", other[1], url).returncode != 0
    assert _run("curl", "-sSk", "--cert", cert, "--key", key, url).returncode == 0


class Load:
    """Clients that ask over and over: on connections that stay, and on new ones."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._end = threading.Event()
        self.answered = 0
        self.failed: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(stays,)) for stays in (True, True, False)
        ]
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        for thread in self._threads:
            thread.start()

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self._port), LONGEST_WAIT_S)
        return self.context.wrap_socket(plain)

    def _run(self, stays: bool) -> None:
        try:
            connected = self._connect()
            while not self._end.is_set():
                connected.sendall(b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n")
                data = b""
                while b'"connection":' not in data or not data.endswith(b"}"):
                    more = connected.recv(1 << 16)
                    if not more:
                        raise OSError("closed")
                    data += more
                self.answered += 1
                if not stays:
                    connected.close()
                    connected = self._connect()
            connected.close()
        except OSError as error:
            self.failed.append(repr(error))

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("by", ["console", "signal"])
def test_certificates_are_replaced_under_load_and_nobody_is_cut_off(
    make_site: MakeSite, by: str
) -> None:
    site = make_site("")
    load = Load(site.port)
    try:
        for number in range(4):
            name = f"new{number}"
            site.put(certificate(site.folder, name, "used.example"))
            bundle(site.folder, site.hosts / "a.pem", f"alpha{number}", "alpha.example")
            answered = load.answered
            if by == "console":
                assert site.balancer.command("certificates reload")[0].startswith("web ")
            else:
                site.balancer.running.process.send_signal(signal.SIGHUP)
                wait_for(lambda name=name: shown(site.port) == name, f"the certificate {name}")
            assert shown(site.port) == name
            assert shown(site.port, "-servername", "alpha.example") == f"alpha{number}"
            wait_for(
                lambda answered=answered: load.answered > answered + 10 or bool(load.failed),
                "requests after it",
            )
    finally:
        load.stop()
    assert load.failed == []


def _missing(site: Site) -> tuple[Path, str]:
    site.key.unlink()
    return site.key, "can't be read: No such file"


def _gone(site: Site) -> tuple[Path, str]:
    site.cert.unlink()
    return site.cert, "put it there, readable"


def _mismatch(site: Site) -> tuple[Path, str]:
    shutil.copy(certificate(site.folder, "other", "used.example")[1], site.key)
    return site.key, f"does not belong to certificate {site.cert}; put the key there"


def _expired(site: Site) -> tuple[Path, str]:
    days = ("20200101000000Z", "20200201000000Z")
    site.put(certificate(site.folder, "old", days=days))
    return site.cert, "expired on 2020-02-01 00:00 UTC; renew it"


def _early(site: Site) -> tuple[Path, str]:
    days = ("20900101000000Z", "20900201000000Z")
    site.put(certificate(site.folder, "early", days=days))
    return site.cert, "not valid before 2090-01-01 00:00 UTC; is this host's clock right?"


def _encrypted(site: Site) -> tuple[Path, str]:
    plain = site.folder / "plain.key"
    shutil.copy(site.key, plain)
    pkey = ("openssl", "pkey", "-aes256", "-passout", "pass:word", "-in", plain, "-out", site.key)
    assert _run(*pkey).returncode == 0
    return site.key, "is encrypted; write it without its passphrase"


def _garbage(site: Site) -> tuple[Path, str]:
    site.cert.write_text("no certificate\n")
    return site.cert, "no certificate in PEM form"


def _nameless(site: Site) -> tuple[Path, str]:
    bundle(site.folder, site.hosts / "c.pem", "nameless")
    return site.hosts / "c.pem", "have one made with subjectAltName"


@pytest.mark.parametrize(
    "spoil",
    [_missing, _gone, _mismatch, _expired, _early, _encrypted, _garbage, _nameless],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_what_cant_be_used_is_named_and_all_old_ones_stay(
    make_site: MakeSite, spoil: Callable[[Site], tuple[Path, str]]
) -> None:
    site = make_site("")
    bundle(site.folder, site.hosts / "a.pem", "alpha-new", "alpha.example")
    file, remedy = spoil(site)
    (answer,) = site.balancer.command("certificates reload")
    assert answer.startswith("ERROR: ")
    assert str(file) in answer
    assert remedy in answer
    site.balancer.running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: remedy in site.balancer.running.output, "the log to name it")
    assert shown(site.port) == "used"
    assert shown(site.port, "-servername", "alpha.example") == "alpha"


def test_a_balancer_begins_with_an_expired_certificate_and_says_so(
    start_balancer: Start, tmp_path: Path
) -> None:
    days = ("20200101000000Z", "20200201000000Z")
    cert, key = certificate(tmp_path, "old", days=days)
    balancer = start_balancer(proxy("127.0.0.1:1", settings=settings(cert, key)))
    assert shown(balancer.port) == "old"
    assert f"certificate {cert} expired on 2020-02-01 00:00 UTC; renew it" in (
        balancer.running.output
    )


def test_a_certificate_that_is_none_is_a_reason_not_to_start(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "used")
    cert.write_text("none")
    config = tmp_path / "web.conf"
    text = proxy("127.0.0.1:1", settings=settings(cert, key))
    config.write_text(text.replace("PORT", str(free_port())))
    result = _run(LJ, "perlbal", "serve", "--config", config)
    assert result.returncode != 0
    assert f"certificate {cert} is no certificate in PEM form".encode() in result.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_tls_is_switched_on_and_off_while_it_listens(
    start_balancer: Start, node: Node, tmp_path: Path, workers: int
) -> None:
    cert, key = certificate(tmp_path, "late", "late.example")
    balancer = start_balancer(proxy(node.address), "ours", f"--workers={workers}")
    refused = balancer.command("SET web.enable_ssl = on")
    assert refused == ["ERROR: service web: enable_ssl needs ssl_cert_file and ssl_key_file"]
    assert get(balancer.port).status == 200
    assert balancer.command(f"SET web.ssl_cert_file = {cert}") == ["OK"]
    assert balancer.command(f"SET web.ssl_key_file = {key}") == ["OK"]
    assert balancer.command("SET web.enable_ssl = on") == ["OK"]
    assert shown(balancer.port) == "late"
    assert balancer.command("certificates")[0].startswith(f"web {cert} until ")
    assert balancer.command("SET web.enable_ssl = off") == ["OK"]
    assert get(balancer.port).status == 200


def test_a_handshake_that_does_not_go_on_ends(start_balancer: Start, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "used", "used.example")
    more = "  SET idle_timeout = 1\n"
    balancer = start_balancer(proxy("127.0.0.1:1", settings=settings(cert, key, more)))
    with socket.create_connection(("127.0.0.1", balancer.port), LONGEST_WAIT_S) as silent:
        assert silent.recv(1) == b""
