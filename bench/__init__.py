"""Benchmarks: ours beside the real peers, on one machine, in one run.

``python -m bench [module ...] [--quick]`` (or ``make bench``) runs the modules
here, prints the results and writes them into docs/benchmarks.md, each module in
its own section; the sections of modules that were not run stay.

A module is a file ``bench/<system>.py`` with two things:

``TITLE``
    heading of its section.
``comparisons(quick: bool) -> Iterator[Comparison]``
    what to compare (see `bench.harness`).

For example, two clients that fetch from the same servers::

    TITLE = "memcached client"

    @contextmanager
    def pymemcache() -> Iterator[Subject]:
        yield Subject(HashClient(...))

    def fetch(subject: Subject) -> float:
        started = time.perf_counter()
        for _ in range(ROUNDS):
            subject.value.get_many(KEYS)
        return ROUNDS / (time.perf_counter() - started)

    def comparisons(quick: bool) -> Iterator[Comparison]:
        yield Comparison(
            "100 keys over 4 servers",
            ours=Contender("lj client", version, ours),
            peer=Contender("pymemcache HashClient", pymemcache.__version__, pymemcache),
            loads=[Load("get_many", "calls/s", fetch)],
            goal="at least 2 times as fast",
        )

The harness starts both, lets each run once to warm up, then alternates them for
`ROUNDS` rounds (who goes first changes every round), and takes medians.  A
subject that names its process (`Subject.pid`) has its share of a CPU measured,
which shows whether it, and not the load generator, was what limited the run.
A comparison without a peer reports our figure alone.

Nothing is asserted here: correctness belongs to tests, and timings to readers.
"""
