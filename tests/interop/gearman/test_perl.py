"""Perl's Gearman::Client and Gearman::Worker against the kit's server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gearman import GearmanServer, Start
from tests.support.process import spawn

pytestmark = pytest.mark.interop

WORKER = """
use strict; use warnings; use Gearman::Worker;
my $worker = Gearman::Worker->new(job_servers => [$ARGV[0]]);
$worker->register_function(up => sub { uc $_[0]->arg });
$worker->register_function(fails => sub { undef });
$worker->register_function(dies => sub { die "that is why\\n" });
$worker->register_function(slow => 1, sub { sleep 3; return "late" });
$worker->register_function(steps => sub {
    my $job = shift;
    $job->set_status($_, 3) for 1 .. 3;
    $job->send_work_data("part") if $job->can("send_work_data");
    return "done";
});
$worker->work while 1;
"""

CLIENT = """
use strict; use warnings; use Gearman::Client; use Gearman::Task;
$| = 1;
my $client = Gearman::Client->new(job_servers => [$ARGV[0]], exceptions => 1);
print "up ", ${ $client->do_task(up => "hello") }, "\\n";
print "fails ", defined $client->do_task(fails => "x") ? "no" : "yes", "\\n";
my @seen;
my $tasks = $client->new_task_set;
for my $n (1 .. 50) {
    $tasks->add_task(up => "n$n", { uniq => "k" . ($n % 10),
        on_complete => sub { push @seen, ${ $_[0] } } });
}
$tasks->add_task(steps => "", {
    on_status => sub { print "status $_[0]/$_[1]\\n" },
    on_complete => sub { print "steps ${ $_[0] }\\n" } });
$tasks->add_task(dies => "", {
    on_exception => sub { print "exception $_[0]" },
    on_fail => sub { print "failed\\n" } });
$tasks->wait(timeout => 20);
print "shared ", scalar(@seen), "\\n";
my $handle = $client->dispatch_background(nobody => "x", { uniq => "later" });
my $status = $client->get_status($handle);
print "known ", $status->known ? 1 : 0, " running ", $status->running ? 1 : 0, "\\n";
"""

TOO_LONG = """
use strict; use warnings; use Gearman::Client;
my $client = Gearman::Client->new(job_servers => [$ARGV[0]]);
print "slow ", defined $client->do_task(slow => "x") ? "done" : "failed", "\\n";
print "up ", ${ $client->do_task(up => "still there") }, "\\n";
"""


@pytest.fixture
def server(gearman_server: Start, tmp_path: Path) -> Iterator[GearmanServer]:
    """A server with a Perl worker."""
    running = gearman_server()

    def ready() -> bool:
        return b"steps\t0\t0\t1\n" in running.ask(b"status")

    argv = ["perl", "-e", WORKER, running.address]
    with spawn(argv, tmp_path / "worker.log", ready=ready):
        yield running


def test_calls_task_sets_status_and_exceptions(server: GearmanServer) -> None:
    done = subprocess.run(
        ["perl", "-e", CLIENT, server.address], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["up HELLO", "fails yes"]
    assert [line for line in lines if line.startswith("status ")] == [
        "status 1/3",
        "status 2/3",
        "status 3/3",
    ]
    assert "steps done" in lines
    assert "that is why" in lines  # around it is what Perl's Storable writes
    assert lines[-2:] == ["shared 50", "known 1 running 0"]


def test_a_worker_goes_on_that_took_too_long(server: GearmanServer) -> None:
    """Its limit is in seconds, and it doesn't expect to hear that the job is not its own."""
    done = subprocess.run(
        ["perl", "-e", TOO_LONG, server.address], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["slow failed", "up STILL THERE"], done.stderr
