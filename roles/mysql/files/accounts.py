"""Bring a server's database and accounts to what is wanted; run by the role mysql.

Reads JSON from standard input, so that no password is on a command line::

    {"socket": ..., "admin": ..., "flavour": "mariadb", "check": false, "database": "lj_cluster1",
     "hosts": ["127.0.0.1"],
     "accounts": [{"user": "lj", "password": ..., "everywhere": ["SLAVE MONITOR"],
                   "database": ["SELECT"]}]}

Prints what it changed, or with ``check`` would change, as a JSON list.  Rights that
an account has beyond those wanted are taken away.

MySQL keeps passwords with a salt, so that it can't be asked whether one is right: a
fingerprint is kept beside each account, as its attribute.  And where its data directory
is new, there is only a root without a password, who comes by the socket: the
administrator takes its place.
"""

import hashlib
import json
import re
import sys

import pymysql

COLLATION = "utf8mb4_bin"
GRANT = re.compile(r"GRANT (?P<rights>.+?) ON (?P<on>\S+) TO ")


class Server:
    """A connection that only tells, with `check`, what it would have changed."""

    def __init__(self, connection, flavour, check):
        self._connection = connection
        self.flavour = flavour
        self._check = check
        self.done = []

    def ask(self, statement, parameters=()):
        with self._connection.cursor() as cursor:
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
            rights = set(match["rights"].split(", ")) - {"USAGE"}
            found[match["on"]] = found.get(match["on"], set()) | rights
    return found


def fingerprint(password):
    """Tells whether a password is the one; passwords are long and random."""
    return hashlib.sha256(password.encode()).hexdigest()


def has_password(server, user, host, password):
    """Whether an account has this password; None: there is no such account."""
    if server.flavour == "mysql":
        found = server.ask(
            "SELECT COALESCE(JSON_UNQUOTE(JSON_EXTRACT(attribute, '$.lj')) = %s, 0) "
            "FROM information_schema.user_attributes WHERE user = %s AND host = %s",
            (fingerprint(password), user, host),
        )
    else:
        found = server.ask(
            "SELECT authentication_string = PASSWORD(%s) FROM mysql.user "
            "WHERE user = %s AND host = %s",
            (password, user, host),
        )
    return found[0][0] == 1 if found else None


def set_password(server, what, statement, user, host, password):
    if server.flavour == "mysql":
        parameters = (user, host, password, json.dumps({"lj": fingerprint(password)}))
        server.change(what, f"{statement} %s@%s IDENTIFIED BY %s ATTRIBUTE %s", parameters)
    else:
        server.change(what, f"{statement} %s@%s IDENTIFIED BY %s", (user, host, password))


def have_account(server, account, host, database):
    user, name, password = account["user"], f"{account['user']}@{host}", account["password"]
    found = has_password(server, user, host, password)
    if found is None:
        set_password(server, f"account {name}", "CREATE USER", user, host, password)
    elif not found:
        set_password(server, f"password of {name}", "ALTER USER", user, host, password)
    have = {} if found is None else rights_of(server, user, host)
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


def connect(wanted, user):
    return pymysql.connect(
        unix_socket=wanted["socket"],
        user=user,
        charset="utf8mb4",
        init_command=f"SET NAMES utf8mb4 COLLATE {COLLATION}",
        autocommit=True,
        connect_timeout=10,
    )


def have_administrator(server, admin):
    """Let the administrator take the place of the root that MySQL begins with.

    That root goes last, so that a run that was cut short is made up for by the next one.
    """
    where = "%s@'localhost'"
    by_socket = "IDENTIFIED WITH auth_socket"
    if admin != "root":
        server.change("administrator", f"CREATE USER IF NOT EXISTS {where} {by_socket}", (admin,))
        server.change("his rights", f"GRANT ALL ON *.* TO {where} WITH GRANT OPTION", (admin,))
        server.change("no root without a password", f"DROP USER {where}", ("root",))
        return
    (plugin,) = server.ask("SELECT plugin FROM mysql.user WHERE user = 'root'")[0]
    if plugin != "auth_socket":
        server.change("root comes by the socket", f"ALTER USER {where} {by_socket}", (admin,))


def main():
    wanted = json.load(sys.stdin)
    admin, flavour, check = wanted["admin"], wanted["flavour"], wanted["check"]
    done = []
    if flavour == "mysql":
        try:
            first = Server(connect(wanted, "root"), flavour, check)
        except pymysql.err.MySQLError:
            pass  # it is gone already
        else:
            have_administrator(first, admin)
            done = first.done
    server = Server(connect(wanted, admin), flavour, check)
    have_database(server, wanted["database"])
    for account in wanted["accounts"]:
        for host in wanted["hosts"]:
            have_account(server, account, host, wanted["database"])
    drop_others(server, wanted["accounts"], wanted["hosts"])
    print(json.dumps(done + server.done))


if __name__ == "__main__":
    main()
