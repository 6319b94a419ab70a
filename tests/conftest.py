"""Fixtures that tests of several systems share, and how property tests run."""

from hypothesis import settings

pytest_plugins = [
    "tests.support.browser",
    "tests.support.mariadb",
    "tests.support.databases",
    "tests.support.gearman",
    "tests.support.memcached",
    "tests.support.perlbal",
    "tests.support.job_servers",
    "tests.support.journal",
    "tests.support.together",
]

# A busy machine is no error: what an example may cost is for benchmarks to say.
settings.register_profile("search", deadline=None, max_examples=1000)
# A run says something about the change that it tests: the examples are the same each time.
# `make search` looks for new ones.
settings.register_profile("kit", deadline=None, derandomize=True)
# `make check` tries fewer of them.
settings.register_profile("quick", settings.get_profile("kit"), max_examples=20)
settings.load_profile("kit")
