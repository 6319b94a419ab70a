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
settings.register_profile("kit", deadline=None)
# `make check` tries fewer of them.
settings.register_profile("quick", settings.get_profile("kit"), max_examples=20)
settings.load_profile("kit")
