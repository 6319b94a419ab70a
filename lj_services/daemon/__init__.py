"""What every daemon of the kit shares: the same manners everywhere.

A daemon is a `Settings` model plus a `Service`.  Its life, in the order of the
files here::

    lj SYSTEM serve --config FILE --set KEY=VALUE
      command.py    the click options, and help made from the settings model
      config.py     TOML file + overrides -> typed settings, or a ConfigError that
                    names the file, the key and the remedy
      lifecycle.py  run_service: start, tell systemd, wait for SIGTERM, drain, exit
      log.py        one line an event on stderr, text or JSON
      listening.py  TCP clients: TcpService (listeners, time, drain, reload) and
                    TcpConnection (flow control, the end of a conversation)
      limits.py     how many connections, how long they may idle
      privileges.py root is given up when everything is bound
      metrics.py    Prometheus figures and the health answer, on a listener of their own

A service knows nothing of signals, files or exit codes; `run_service` knows
nothing of protocols.
"""

from lj_services.daemon.config import (
    ByteSize,
    ConfigError,
    DaemonSettings,
    HostPort,
    Settings,
    TextCommandSettings,
    load_settings,
)
from lj_services.daemon.lifecycle import ExitCode, Service, run_service
from lj_services.daemon.limits import ConnectionLimits
from lj_services.daemon.listening import TcpConnection, TcpService
from lj_services.daemon.privileges import drop_privileges

__all__ = [
    "ByteSize",
    "ConfigError",
    "ConnectionLimits",
    "DaemonSettings",
    "ExitCode",
    "HostPort",
    "Service",
    "Settings",
    "TcpConnection",
    "TcpService",
    "TextCommandSettings",
    "drop_privileges",
    "load_settings",
    "run_service",
]
