"""What a server of the role says while it starts: nothing that somebody has to get used to."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.box import CHECKOUT, Box
from tests.support.process import wait_for

pytestmark = [pytest.mark.roles]

ROLE = CHECKOUT / "roles/mysql"


def test_a_server_that_does_not_see_addresses_does_not_miss_them(
    fresh: Box, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.fail("a network of its own takes root: run the tests as root, or -m 'not roles'")
    config, data, socket = tmp_path / "my.cnf", tmp_path / "data", fresh.root / "s"
    instance = {"role": "cluster1", "datadir": str(data), "socket": str(socket)}
    tasks = [
        *(
            {"ansible.builtin.include_vars": str(ROLE / f"{folder}/main.yml")}
            for folder in ("defaults", "vars")
        ),
        {
            "ansible.builtin.template": {
                "src": str(ROLE / "templates/server.cnf.j2"),
                "dest": str(config),
                "mode": "0600",
            },
            "vars": {"mysql_instance": instance},
        },
    ]
    play = {
        "hosts": "mysql",
        "gather_facts": True,
        "gather_subset": ["!all", "!min", "user", "service_mgr"],
        "tasks": tasks,
    }
    (tmp_path / "play.json").write_text(json.dumps([play]))
    run = fresh.play(
        str(tmp_path / "play.json"),
        database_engine="mariadb",
        mysql_listen_address="0.0.0.0",
        mysql_settings={"innodb_use_native_aio": "OFF"},
    )
    assert run.exit_code == 0, run.output
    # Its tmpdir, below what no role has made here.
    (fresh.root / "data/mysql/cluster1/tmp").mkdir(parents=True)
    make = ["mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db"]
    subprocess.run([*make, f"--datadir={data}", f"--tmpdir={tmp_path}"], check=True)

    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            ["unshare", "--net", "mariadbd", f"--defaults-file={config}", "--user=root"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "ready for connections" in (tmp_path / "log").read_text(), "it to start")
    finally:
        server.terminate()
        server.wait(60)
    warnings = [
        line for line in (tmp_path / "log").read_text().splitlines() if "[Note]" not in line
    ]
    assert not [line for line in warnings if "wsrep" in line.lower()]
    # Nor of the setting that it knows.
    assert not [line for line in warnings if "unknown" in line]
