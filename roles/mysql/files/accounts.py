"""Bring a server's database and accounts to what is wanted; run by the role mysql.

Reads JSON from standard input, so that no password is on a command line::

    {"socket": ..., "admin": ..., "check": false, "database": "lj_cluster1",
     "hosts": ["127.0.0.1"],
     "accounts": [{"user": "lj", "password": ..., "everywhere": ["SLAVE MONITOR"],
                   "database": ["SELECT"]}]}

Prints what it changed, or with ``check`` would change, as a JSON list.  Rights that
an account has beyond those wanted are taken away.
"""

import json
import re
import sys

import mysql.connector

COLLATION = "utf8mb4_bin"
GRANT = re.compile(r"GRANT (?P<rights>.+?) ON (?P<on>\S+) TO ")


class Server:
    """A connection that only tells, with `check`, what it would have changed."""

    def __init__(self, connection, check):
        self._connection = connection
        self._check = check
        self.done = []

    def ask(self, statement, parameters=()):
        with self._connection.cursor(buffered=True) as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def change(self, what, statement, parameters=()):
        self.done.append(what)
        if not self._check:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, parameters)


def have_database(server, name):
    found = server.ask(
        "SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = %s",
        (name,),
    )
    character_set = f"CHARACTER SET utf8mb4 COLLATE {COLLATION}"
    if not found:
        server.change(f"database {name}", f"CREATE DATABASE `{name}` {character_set}")
    elif found[0][0] != COLLATION:
        server.change(f"collation of {name}", f"ALTER DATABASE `{name}` {character_set}")


def rights_of(server, user, host):
    """Where -> rights, of an account that is there."""
    found = {}
    for (line,) in server.ask("SHOW GRANTS FOR %s@%s", (user, host)):
        match = GRANT.match(line)
        if match:
            found[match["on"]] = set(match["rights"].split(", ")) - {"USAGE"}
    return found


def have_account(server, account, host, database):
    user, name = account["user"], f"{account['user']}@{host}"
    found = server.ask(
        "SELECT authentication_string = PASSWORD(%s) FROM mysql.user WHERE user = %s AND host = %s",
        (account["password"], user, host),
    )
    if not found:
        create = "CREATE USER %s@%s IDENTIFIED BY %s"
        server.change(f"account {name}", create, (user, host, account["password"]))
    elif found[0][0] != 1:
        alter = "ALTER USER %s@%s IDENTIFIED BY %s"
        server.change(f"password of {name}", alter, (user, host, account["password"]))
    have = rights_of(server, user, host) if found else {}
    want = {"*.*": set(account["everywhere"]), f"`{database}`.*": set(account["database"])}
    for on in sorted(have.keys() | want.keys()):
        missing = sorted(want.get(on, set()) - have.get(on, set()))
        extra = sorted(have.get(on, set()) - want.get(on, set()))
        if missing:
            grant = f"GRANT {', '.join(missing)} ON {on} TO %s@%s"
            server.change(f"{name} may {', '.join(missing)} on {on}", grant, (user, host))
        if extra:
            revoke = f"REVOKE {', '.join(extra)} ON {on} FROM %s@%s"
            server.change(f"{name} no longer {', '.join(extra)} on {on}", revoke, (user, host))


def drop_others(server, accounts, hosts):
    """Drop our accounts that came from elsewhere before, and those without a name."""
    ours = {account["user"] for account in accounts}
    for user, host in server.ask("SELECT user, host FROM mysql.user"):
        if user == "" or (user in ours and host not in hosts):
            server.change(f"no account {user}@{host}", "DROP USER %s@%s", (user, host))


def main():
    wanted = json.load(sys.stdin)
    connection = mysql.connector.connect(
        unix_socket=wanted["socket"],
        user=wanted["admin"],
        charset="utf8mb4",
        collation=COLLATION,
        autocommit=True,
        connection_timeout=10,
    )
    server = Server(connection, wanted["check"])
    have_database(server, wanted["database"])
    for account in wanted["accounts"]:
        for host in wanted["hosts"]:
            have_account(server, account, host, wanted["database"])
    drop_others(server, wanted["accounts"], wanted["hosts"])
    print(json.dumps(server.done))


if __name__ == "__main__":
    main()
