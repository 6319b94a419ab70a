# ruff: noqa: PTH112, PTH115, PTH117, PTH120, PTH123, PTH208 - plain calls run on old Pythons
"""Examine a host on behalf of the preflight role; change nothing.

Reads what to look for as JSON from the first argument, prints the problems as a
JSON list of ``{"problem": ..., "set": ...}``, an empty list when all is well.
It runs with any Python 3.8 and its standard library alone, through the
interpreter's standard input, so that nothing is left on the host.

A port counts as free when it can be bound, or when the process that listens on
it is one of ours: it or an ancestor runs from our runtime directory, or its
control group is our service's unit.
"""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys

SOCKET_PATH_MAX = 107  # bytes in sockaddr_un without the closing zero, unix(7)
SOCKET_SUFFIX = len(".4194304")  # supervisord binds SOCKET.PID first, then links it


def problem(text, remedy):
    return {"problem": text, "set": remedy}


def read(path):
    try:
        with open(path, "rb") as stream:
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


# --- Ports ----------------------------------------------------------------------


def bind_error(address, port):
    """Why `address`:`port` can't be listened on, as an OSError; None when it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(1)
        except OSError as error:
            return error
    return None


def listening_inodes(port):
    """Socket inodes that listen on `port`, from /proc/net (proc_net(5))."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(table).splitlines()[1:]:
            fields = line.split()
            listening = fields[3] == "0A"
            if listening and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found


def owners(inodes):
    """Process ids that hold one of the sockets, as far as we may look."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for handle in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(handle.path) in wanted:
                    found.append(int(pid))
                    break
        except OSError:
            continue  # ended meanwhile, or belongs to somebody else
    return found


def command_line(pid):
    return read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def ancestry(pid):
    """`pid` and the processes above it."""
    while pid > 1:
        yield pid
        match = re.search(r"^PPid:\s*(\d+)", read(f"/proc/{pid}/status"), re.MULTILINE)
        pid = int(match.group(1)) if match else 0


def is_ours(pid, runtime_dir, units):
    if any(runtime_dir.rstrip("/") + "/" in command_line(each) for each in ancestry(pid)):
        return True
    groups = read(f"/proc/{pid}/cgroup").splitlines()
    return any(group.endswith("/" + unit) for group in groups for unit in units)


def check_listener(listener, runtime_dir):
    address, port, variable = listener["address"], listener["port"], listener["variable"]
    service = listener["service"]
    if not 1 <= port <= 65535:
        return problem(
            f"{service}: port {port} is none of 1 to 65535",
            f"{variable} to a free port",
        )
    try:
        error = bind_error(address, port)
    except (OSError, UnicodeError) as wrong:
        error = wrong
    if error is None:
        return None
    if getattr(error, "errno", None) != errno.EADDRINUSE:
        return problem(
            f"{service}: can't listen on {address}:{port}: {error}",
            f"{variable}, or the address beside it",
        )
    pids = owners(listening_inodes(port))
    units = [f"lj-{service}.service", f"{service}.service"]
    if pids and all(is_ours(pid, runtime_dir, units) for pid in pids):
        return None
    holder = ", ".join(f"process {pid} ({command_line(pid)[:80]})" for pid in pids)
    above = range(port + 1 if port < 60000 else 8081, 65536)
    other = next(each for each in above if bind_error(address, each) is None)
    return problem(
        f"{service}: port {port} on {address} is taken by {holder or 'a process of another user'}",
        f"{variable} to a free port (one box: make up {variable.upper()}={other}), "
        "or end that process",
    )


# --- The host ---------------------------------------------------------------------


def check_python(python, wanted):
    """`wanted` is the control host's ``major.minor machine``: wheels fit only the same."""
    path = shutil.which(python)
    if path is None:
        return problem(f"there is no {python} on this host", "runtime_python to a Python 3.11")
    script = (
        "import sys, platform;"
        "print('%s.%s %s' % (*sys.version_info[:2], platform.machine()));"
        "import venv, ensurepip"
    )
    run = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
    found = run.stdout.strip()
    if found and tuple(map(int, found.split()[0].split("."))) < (3, 11):
        return problem(
            f"{path} is Python {found.split()[0]}, the kit needs 3.11 or newer",
            "runtime_python to a newer one",
        )
    if run.returncode:
        return problem(
            f"{path} has no venv or no ensurepip",
            "nothing: install the Debian package python3-venv; or runtime_python to another Python",
        )
    if wanted and found != wanted:
        return problem(
            f"{path} is Python {found}; the control host builds wheels for {wanted}",
            "runtime_python to the same version as the control host's",
        )
    return None


def existing_ancestor(path):
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def check_directory(path, variable):
    if not os.path.isabs(path):
        return problem(f"{path} is not an absolute path", variable)
    ancestor = existing_ancestor(path)
    if not os.path.isdir(ancestor):
        return problem(f"{ancestor} is not a directory", variable)
    if not os.access(ancestor, os.W_OK | os.X_OK):
        return problem(f"{ancestor} is not writable", f"{variable} to a directory that is")
    return None


def check_space(path, free_mb):
    ancestor = existing_ancestor(path)
    free = shutil.disk_usage(ancestor).free // (1 << 20)
    if free < free_mb:
        return problem(
            f"{ancestor} has {free} MB free, {free_mb} are needed",
            "lj_root to a larger disk, or preflight_free_mb",
        )
    return None


def check_socket(path, variable):
    size, room = len(os.fsencode(path)), SOCKET_PATH_MAX - SOCKET_SUFFIX
    if size > room:
        return problem(
            f"the path of the service manager's socket has {size} bytes, "
            f"the system allows {room}: {path}",
            f"{variable} to a shorter directory",
        )
    return None


def check_program(path, variable):
    if shutil.which(path) is None:
        return problem(f"{path} is not installed on this host", variable)
    return None


def check_distinct(listeners):
    """Two services can't have the same port."""
    first = {}
    for each in listeners:
        other = first.setdefault((each["address"], each["port"]), each)
        if other is not each:
            yield problem(
                f"{other['variable']} and {each['variable']} are both {each['port']}",
                f"{each['variable']} to another port",
            )


def main():
    wanted = json.loads(sys.argv[1])
    listeners = wanted.get("listeners", ())
    found = [check_listener(each, wanted["runtime_dir"]) for each in listeners]
    found += check_distinct(listeners)
    found += [check_program(each["path"], each["set"]) for each in wanted.get("programs", ())]
    directories = wanted.get("directories", ())
    bad = [check_directory(each["path"], each["variable"]) for each in directories]
    found += bad
    if "free_mb" in wanted and not any(bad):
        found.append(check_space(wanted["runtime_dir"], wanted["free_mb"]))
    if "python" in wanted:
        found.append(check_python(wanted["python"], wanted["python_like"]))
    if wanted.get("socket"):
        found.append(check_socket(wanted["socket"]["path"], wanted["socket"]["variable"]))
    print(json.dumps([each for each in found if each]))


if __name__ == "__main__":
    main()
