"""What Vagrant makes of an inventory is what the lab makes of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.box import BIN, CHECKOUT
from tools.lab.plan import read_inventory

pytestmark = [pytest.mark.roles]

# Stands for Vagrant: takes down what it is told, and prints it.
RECORDER = """
require "json"
class Recorder
  attr_reader :seen
  def initialize(seen) = @seen = seen
  def vm = self
  def define(name) = yield(Recorder.new(@seen[name] = { "networks" => [], "disks" => {} }))
  def network(kind, **how) = @seen["networks"] << [kind, how[:ip], how[:libvirt__network_name]]
  def provider(name) = yield(self)
  def storage(kind, **how) = @seen["disks"][how[:serial]] = how[:size]
  def provision(kind, inline:) = @seen["shell"] = inline
  def synced_folder(*, **) = nil
  def method_missing(name, value) = @seen[name.to_s.delete("=")] = value
end
module Vagrant
  def self.configure(_)
    yield Recorder.new(all = {})
    puts JSON.generate(all.reject { |name, _| name == "box" })
  end
end
load "./Vagrantfile"
"""


@pytest.fixture(params=["ha_pair", "ha_slave", "lab", "storage"])
def scenario(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    monkeypatch.setenv("SCENARIO", request.param)
    return str(request.param)


def test_its_hosts_are_those_of_the_lab(scenario: str) -> None:
    words = ["ruby", "-e", RECORDER]
    run = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    plan = read_inventory(CHECKOUT / "inventory" / scenario)
    assert {
        name: (
            its["hostname"],
            its["memory"],
            its["disks"],
            {(ip, network.removeprefix("lj-")) for _, ip, network in its["networks"]},
        )
        for name, its in told.items()
    } == {
        host.name: (
            host.name,
            host.memory_mb,
            {serial: f"{size}M" for serial, size in host.disks.items()},
            {(str(link.address.ip), link.network) for link in host.links},
        )
        for host in plan.hosts
    }
    lines = {f"{host.address} {host.name}" for host in plan.hosts}
    assert all(line in its["shell"] for line in lines for its in told.values())


def test_the_guide_names_the_interfaces_of_a_pair(scenario: str) -> None:
    run = subprocess.run(["ruby", "-e", RECORDER], cwd=CHECKOUT, capture_output=True, text=True)
    guide = (CHECKOUT / "docs/lab.md").read_text()
    for its in json.loads(run.stdout).values():
        networks = [network for _, _, network in its["networks"]]
        assert networks.index("lj-public") == 0
        # The first one, eth0, is that of vagrant-libvirt's management network.
        names = {network: f"eth{number}" for number, network in enumerate(networks, 1)}
        for network, name in names.items():
            which = "" if network == "lj-public" else "crossover_"
            assert f'"heartbeat_{which}interface": "{name}"' in guide


def test_vagrant_finds_it_valid(scenario: str, tmp_path: Path) -> None:
    run = subprocess.run(
        ["vagrant", "validate"],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "validated successfully" in run.stdout


def test_an_inventory_without_hosts_of_a_lab_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO", "onebox")
    words = ["ruby", "-e", RECORDER]
    run = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "no host of inventory/onebox has a lab_kind" in run.stderr
