"""What a converged box looks like from outside, by testinfra."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from testinfra.host import Host

ROOT = Path(os.environ.get("LJ_MOLECULE_ROOT", "/tmp/lj-molecule"))  # noqa: S108 - the scenario's
PORTS = {
    "perlbal": int(os.environ.get("PERLBAL_PORT", "28090")),
    "perlbal-console": int(os.environ.get("PERLBAL_CONSOLE_PORT", "28091")),
    "journal": int(os.environ.get("JOURNAL_PORT", "28080")),
    "memcached": int(os.environ.get("MEMCACHED_PORT", "28082")),
    "gearmand": int(os.environ.get("GEARMAND_PORT", "28087")),
    "mover-coordinator": int(os.environ.get("MOVER_PORT", "28084")),
}
METRICS = {
    "perlbal": int(os.environ.get("PERLBAL_METRICS_PORT", "28092")),
    "journal": int(os.environ.get("JOURNAL_METRICS_PORT", "28081")),
    "memcached": int(os.environ.get("MEMCACHED_METRICS_PORT", "28083")),
    "gearmand": int(os.environ.get("GEARMAND_METRICS_PORT", "28088")),
    "gofer": int(os.environ.get("GEARMAN_WORKER_GOFER_METRICS_PORT", "28089")),
    "mover-coordinator": int(os.environ.get("MOVER_METRICS_PORT", "28085")),
    "mover-worker": int(os.environ.get("MOVER_WORKER_METRICS_PORT", "28086")),
}
testinfra_hosts = ["local://"]


@pytest.mark.parametrize("name", sorted(PORTS))
def test_listens_on_loopback_alone(host: Host, name: str) -> None:
    assert host.socket(f"tcp://127.0.0.1:{PORTS[name]}").is_listening
    assert not host.socket(f"tcp://0.0.0.0:{PORTS[name]}").is_listening


@pytest.mark.parametrize("name", sorted(METRICS))
def test_says_that_it_is_well(host: Host, name: str) -> None:
    answer = host.run("curl --silent --fail http://127.0.0.1:%s/health", str(METRICS[name]))
    assert answer.stdout == "ok\n"


@pytest.mark.parametrize("name", sorted(METRICS))
def test_supervisor_keeps_it_running(host: Host, name: str) -> None:
    status = host.run(
        "%s -c %s status %s",
        f"{ROOT}/runtime/current/bin/supervisorctl",
        f"{ROOT}/etc/supervisord.conf",
        name,
    )
    assert status.stdout.split()[:2] == [name, "RUNNING"]


def test_current_is_a_complete_release(host: Host) -> None:
    current = host.file(f"{ROOT}/runtime/current")
    assert current.is_symlink
    release = Path(current.linked_to)
    assert release.parent == ROOT / "runtime/releases"
    assert host.file(f"{current.linked_to}/.complete").content_string.strip() == release.name


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("etc/secrets/journal", 0o600),
        ("etc/site.toml", 0o640),
        ("etc/perlbal.conf", 0o640),
        ("etc/supervisord.conf", 0o600),
        ("etc", 0o750),
        ("data", 0o750),
        ("log", 0o750),
    ],
)
def test_nobody_else_can_read(host: Host, path: str, mode: int) -> None:
    assert host.file(f"{ROOT}/{path}").mode == mode


def test_the_schema_is_up_to_date(host: Host) -> None:
    status = host.run("%s --site %s db status --json", f"{ROOT}/runtime/current/bin/lj", SITE)
    assert status.rc == 0, status.stderr
    rows = json.loads(status.stdout)
    assert {row["role"] for row in rows} == {"global", "cluster1", "cluster2"}
    assert {row["state"] for row in rows} == {"current"}


def test_monitoring_finds_job_server_and_workers_well(host: Host) -> None:
    check = host.run(
        "%s gearman check --server 127.0.0.1:%s --min-workers 1 "
        "-f journal.clean_html -f gofer.cluster1.read -f gofer.cluster2.write",
        f"{ROOT}/runtime/current/bin/lj",
        str(PORTS["gearmand"]),
    )
    assert (check.rc, check.stdout[:12]) == (0, "GEARMAN OK -")


def test_workers_clean_html(host: Host) -> None:
    done = host.run(
        "%s --site %s gearman submit journal.clean_html %s --timeout 30",
        f"{ROOT}/runtime/current/bin/lj",
        SITE,
        "<b>bold</b><script>alert(1)</script>",
    )
    assert done.stdout == "<b>bold</b>", done.stderr


def test_the_gofer_asks_the_databases(host: Host) -> None:
    script = (
        "import sys; from lj_services.gearman import gofer;"
        "cursor = gofer.connect([sys.argv[1]], 'cluster1').cursor();"
        "print(cursor.execute('SELECT count(*) >= 0 FROM post').fetchall())"
    )
    python, address = f"{ROOT}/runtime/current/bin/python", f"127.0.0.1:{PORTS['gearmand']}"
    done = host.run("%s -c %s %s", python, script, address)
    assert done.stdout == "[(1,)]\n", done.stderr


@pytest.mark.parametrize("name", ["perlbal", "journal"])
def test_the_front_page_answers(host: Host, name: str) -> None:
    answer = host.run("curl --silent --fail http://127.0.0.1:%s/", str(PORTS[name]))
    assert "<html" in answer.stdout


def test_people_are_sent_to_the_load_balancer(host: Host) -> None:
    site = host.file(SITE).content_string
    assert f'url = "http://127.0.0.1:{PORTS["perlbal"]}"' in site


def test_the_console_shows_the_node_and_what_it_was_asked(host: Host) -> None:
    host.run("curl --silent http://127.0.0.1:%s/", str(PORTS["perlbal"]))
    console = (f"{ROOT}/runtime/current/bin/lj", f"127.0.0.1:{PORTS['perlbal-console']}")
    pool = host.run("%s perlbal console --server %s show pool webs", *console)
    node, requests = pool.stdout.split()
    assert node == f"127.0.0.1:{PORTS['journal']}"
    assert int(requests) > 0
    nodes = host.run("%s perlbal console --server %s nodes", *console)
    assert f"{node} responsecodes 200 " in nodes.stdout


def test_the_site_believes_its_load_balancer_alone(host: Host) -> None:
    believed = host.file(f"{ROOT}/etc/journal.toml").content_string
    assert 'trusted_proxies = ["127.0.0.1"]' in believed.splitlines()


def test_people_can_use_it(host: Host) -> None:
    smoke = host.run("%s --site %s smoke", f"{ROOT}/runtime/current/bin/lj", SITE)
    assert smoke.rc == 0, smoke.stdout + smoke.stderr


SITE = f"{ROOT}/etc/site.toml"
