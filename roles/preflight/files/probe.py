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
        with open(path, "rb") as stream:  # noqa: PTH123 - runs on old Pythons too
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
    wanted = {"socket:[%s]" % inode for inode in inodes}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        try:
            for handle in os.scandir("/proc/%s/fd" % pid):
                if os.readlink(handle.path) in wanted:  # noqa: PTH115
                    found.append(int(pid))
                    break
        except OSError:
            continue  # ended meanwhile, or belongs to somebody else
    return found


def command_line(pid):
    return read("/proc/%d/cmdline" % pid).replace("\0", " ").strip()


def ancestry(pid):
    """`pid` and the processes above it."""
    while pid > 1:
        yield pid
        match = re.search(r"^PPid:\s*(\d+)", read("/proc/%d/status" % pid), re.MULTILINE)
        pid = int(match.group(1)) if match else 0


def is_ours(pid, runtime_dir, units):
    if any(runtime_dir.rstrip("/") + "/" in command_line(each) for each in ancestry(pid)):
        return True
    groups = read("/proc/%d/cgroup" % pid).splitlines()
    return any(group.endswith("/" + unit) for group in groups for unit in units)


def check_listener(listener, runtime_dir):
    address, port, variable = listener["address"], listener["port"], listener["variable"]
    if not 1 <= port <= 65535:
        return problem(
            "%s: port %d is none of 1 to 65535" % (listener["service"], port),
            "%s to a free port" % variable,
        )
    try:
        error = bind_error(address, port)
    except (OSError, UnicodeError) as wrong:
        error = wrong
    if error is None:
        return None
    if getattr(error, "errno", None) != errno.EADDRINUSE:
        return problem(
            "%s: can't listen on %s:%d: %s" % (listener["service"], address, port, error),
            "%s, or the address beside it" % variable,
        )
    pids = owners(listening_inodes(port))
    units = ["lj-%s.service" % listener["service"], "%s.service" % listener["service"]]
    if pids and all(is_ours(pid, runtime_dir, units) for pid in pids):
        return None
    holder = ", ".join("process %d (%s)" % (pid, command_line(pid)[:80]) for pid in pids)
    return problem(
        "%s: port %d on %s is taken by %s"
        % (listener["service"], port, address, holder or "a process of another user"),
        "%s to a free port, or end that process" % variable,
    )


# --- The host ---------------------------------------------------------------------


def check_python(python, wanted):
    """`wanted` is the control host's ``major.minor machine``: wheels fit only the same."""
    path = shutil.which(python)
    if path is None:
        return problem("there is no %s on this host" % python, "runtime_python to a Python 3.11")
    script = (
        "import sys, platform;"
        "print('%d.%d %s' % (*sys.version_info[:2], platform.machine()));"
        "import venv, ensurepip"
    )
    run = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
    found = run.stdout.strip()
    if found and tuple(map(int, found.split()[0].split("."))) < (3, 11):
        return problem(
            "%s is Python %s, the kit needs 3.11 or newer" % (path, found.split()[0]),
            "runtime_python to a newer one",
        )
    if run.returncode:
        return problem(
            "%s has no venv or no ensurepip" % path,
            "nothing: install the Debian package python3-venv; or runtime_python to another Python",
        )
    if wanted and found != wanted:
        return problem(
            "%s is Python %s; the control host builds wheels for %s" % (path, found, wanted),
            "runtime_python to the same version as the control host's",
        )
    return None


def existing_ancestor(path):
    while not os.path.lexists(path):
        path = os.path.dirname(path)  # noqa: PTH120
    return path


def check_directory(path, variable):
    if not os.path.isabs(path):  # noqa: PTH117
        return problem("%s is not an absolute path" % path, variable)
    ancestor = existing_ancestor(path)
    if not os.path.isdir(ancestor):  # noqa: PTH112
        return problem("%s is not a directory" % ancestor, variable)
    if not os.access(ancestor, os.W_OK | os.X_OK):
        return problem("%s is not writable" % ancestor, "%s to a directory that is" % variable)
    return None


def check_space(path, free_mb):
    ancestor = existing_ancestor(path)
    free = shutil.disk_usage(ancestor).free // (1 << 20)
    if free < free_mb:
        return problem(
            "%s has %d MB free, %d are needed" % (ancestor, free, free_mb),
            "lj_root to a larger disk, or preflight_free_mb",
        )
    return None


def check_socket(path, variable):
    room = SOCKET_PATH_MAX - SOCKET_SUFFIX
    if len(os.fsencode(path)) > room:
        return problem(
            "the path of the service manager's socket, %s, has %d bytes; the system allows %d"
            % (path, len(os.fsencode(path)), room),
            "%s to a shorter directory" % variable,
        )
    return None


def check_program(path, variable):
    if shutil.which(path) is None:
        return problem("%s is not installed on this host" % path, variable)
    return None


def main():
    wanted = json.loads(sys.argv[1])
    found = [check_listener(each, wanted["runtime_dir"]) for each in wanted.get("listeners", ())]
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
