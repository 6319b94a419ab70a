"""Have a server follow another one; run by the role mysql_replication.

Reads JSON from standard input, so that no password is on a command line::

    {"socket": ..., "admin": ..., "check": false, "wait_s": 120,
     "password": ...,
     "source": {"host": ..., "port": 3306, "user": ..., "connect_retry": 2,
                "heartbeat_period": 5, "delay": 0}}

Prints what it changed, or with ``check`` would change, as a JSON list; ends with 1 and a
sentence when the slave does not run within ``wait_s`` seconds.  With 0 it is not waited for.
"""

import json
import sys
import time

import pymysql
import pymysql.cursors

# What is asked for -> the column of SHOW SLAVE STATUS that tells it.
COLUMNS = {
    "host": "Master_Host",
    "port": "Master_Port",
    "user": "Master_User",
    "connect_retry": "Connect_Retry",
    "delay": "SQL_Delay",
}
GTID = "Slave_Pos"
"""What Using_Gtid has to be: by a file and a position none goes on where a pair's group moves."""
PURGED = 1236
SEED = (
    "the source's binary log no longer has what this slave needs: restore a backup on it, "
    "and set gtid_slave_pos to where that was made"
)
NO_GTID = (
    "the slave follows by a file and a position, and has no gtid_slave_pos to go on from: let it "
    "replicate something first, or set gtid_slave_pos"
)


def status_of(connection):
    """The row of SHOW SLAVE STATUS, or nothing where it has never followed anyone."""
    with connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute("SHOW SLAVE STATUS")
        rows = cursor.fetchall()
    return rows[0] if rows else {}


def position_of(connection):
    """By GTID, what the slave has of all that it ever followed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@GLOBAL.gtid_slave_pos")
        ((position,),) = cursor.fetchall()
    return position


def differs(status, source):
    """What of the source is not as it should be, or by which it is followed."""
    found = [name for name, column in COLUMNS.items() if status.get(column) != source[name]]
    return found if status.get("Using_Gtid") == GTID else [*found, "gtid"]


def runs(status):
    return status.get("Slave_IO_Running") == "Yes" and status.get("Slave_SQL_Running") == "Yes"


def words(source, password):
    """The CHANGE MASTER statement, and its parameters."""
    parts = ["MASTER_PASSWORD = %s", f"MASTER_USE_GTID = {GTID}"]
    values = [password]
    for name, value in source.items():
        parts.append(f"MASTER_{name.upper()} = %s")
        values.append(value)
    return f"CHANGE MASTER TO {', '.join(parts)}", values


def trouble(status):
    """Why a slave does not run, in one sentence."""
    if status.get("Last_IO_Errno") == PURGED:
        return SEED
    return (
        status.get("Last_IO_Error")
        or status.get("Last_SQL_Error")
        or f"the slave says: {status.get('Slave_IO_State') or 'nothing'}"
    )


def main():
    wanted = json.load(sys.stdin)
    connection = pymysql.connect(
        unix_socket=wanted["socket"],
        user=wanted["admin"],
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=10,
    )
    source, done = wanted["source"], []

    def change(what, statement, values=()):
        done.append(what)
        if not wanted["check"]:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)

    status = status_of(connection)
    different = differs(status, source)
    if status.get("Using_Gtid") == "No" and not position_of(connection):
        sys.exit(NO_GTID)
    # Where the source does not know the password that is kept, it may have changed.
    if different or (status and not runs(status) and status.get("Last_IO_Errno") == 1045):
        if status:
            change("stopped", "STOP SLAVE")
        change(f"follows {source['host']}", *words(source, wanted["password"]))
    if different or not runs(status):
        change("started", "START SLAVE")
    deadline = time.monotonic() + wanted["wait_s"]
    waits = wanted["wait_s"] > 0 and not wanted["check"]
    while waits and not runs(status := status_of(connection)):
        if time.monotonic() > deadline or status.get("Last_IO_Errno") == PURGED:
            sys.exit(trouble(status))
        time.sleep(0.5)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
