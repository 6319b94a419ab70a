"""Perl's client and worker beside the kit's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lj_services.gearman.client import Client
from lj_services.gearman.client_errors import TaskException
from lj_services.gearman.worker import Job, Worker
from tests.support.job_servers import C_SERVER, PERL_SERVER, Start, asking, at_work
from tests.support.process import spawn

pytestmark = pytest.mark.interop

PERL_WORKER = """
use strict; use warnings; use Gearman::Worker;
my $worker = Gearman::Worker->new(job_servers => [$ARGV[0]]);
$worker->register_function(upper => sub {
    my $job = shift; $job->set_status(1, 2); return uc $job->arg });
$worker->register_function(broken => sub { die "no such picture" });
$worker->work while 1;
"""

PERL_CLIENT = """
use strict; use warnings; use Gearman::Client;
my $client = Gearman::Client->new(job_servers => [split /,/, $ARGV[0]], exceptions => 1);
my $result = $client->do_task(reverse => 'abc', {timeout => 20});
print "result $$result\\n";
$client->do_task(broken => '', {timeout => 20,
    on_exception => sub { print "exception\\n" }, on_fail => sub { print "fail\\n" }});
"""

PERL_SUBMIT = """
use strict; use warnings; use Gearman::Client;
my $client = Gearman::Client->new(job_servers => [split /,/, $ARGV[0]]);
$client->dispatch_background(later => $_, {uniq => "key $_"}) for 1 .. 60;
"""


@pytest.mark.parametrize("program", [C_SERVER, PERL_SERVER], ids=["C", "Perl"])
def test_our_client_calls_a_perl_worker(job_server: Start, tmp_path: Path, program: str) -> None:
    server = job_server(program)

    def offered() -> bool:
        return server.status().get("broken", (0, 0, 0))[2] == 1

    argv = ["perl", "-e", PERL_WORKER, server.address]
    seen: list[tuple[int, ...]] = []
    with spawn(argv, tmp_path / "worker.log", ready=offered), asking(server) as client:
        result = client.do("upper", b"abc", timeout_s=20, on_status=lambda _, *at: seen.append(at))
        assert result == b"ABC"
        assert seen == [(1, 2)]
        with pytest.raises(TaskException) as caught:
            client.do("broken", timeout_s=20)
        assert b"no such picture" in caught.value.details
        if program == PERL_SERVER:
            # C's server ends the job at the exception and refuses the failure behind it,
            # and Perl's worker does not get over that.
            assert client.do("upper", b"again", timeout_s=20) == b"AGAIN"


@pytest.mark.parametrize("program", [C_SERVER, PERL_SERVER], ids=["C", "Perl"])
def test_a_perl_client_calls_our_worker(job_server: Start, program: str) -> None:
    server = job_server(program)

    def broken(job: Job) -> None:
        raise LookupError("no")

    worker = Worker([server.address])
    worker.register("reverse", lambda job: job.payload[::-1])
    worker.register("broken", broken)
    with at_work(worker):
        done = subprocess.run(
            ["perl", "-e", PERL_CLIENT, server.address],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    lines = done.stdout.splitlines()
    assert lines[0] == "result cba", done.stderr
    assert set(lines[1:]) & {"exception", "fail"}, done.stdout


def test_keys_go_to_the_servers_to_which_perl_takes_them(job_server: Start) -> None:
    """What Perl left on a server under a key, our client finds on the first one it asks."""
    servers = [job_server() for _ in range(3)]
    addresses = ",".join(server.address for server in servers)
    subprocess.run(["perl", "-e", PERL_SUBMIT, addresses], timeout=60, check=True)
    assert all(server.status()["later"][0] for server in servers)
    with asking(*servers) as client:
        for number in range(1, 61):
            key = f"key {number}"
            first = client.placement.order(key.encode())[0]
            with Client([first]) as one:
                assert one.status_of_unique(key).known, key
