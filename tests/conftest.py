"""Fixtures that tests of several systems share."""

pytest_plugins = [
    "tests.support.mariadb",
    "tests.support.databases",
    "tests.support.memcached",
    "tests.support.journal",
]
