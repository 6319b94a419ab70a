"""Parameters of web servers and selectors."""

from __future__ import annotations

from typing import Final

from lj_services.perlbal.tunables.tunable import Tunable
from lj_services.perlbal.values import BOOL, FOLDER, INT, OPTIONAL, SIZE, WORDS

_WEB: Final = "web_server"

TUNABLES: Final = (
    Tunable("docroot", FOLDER, None, "the folder whose files are served", _WEB),
    Tunable("dirindexing", BOOL, False, "whether folders without an index file are listed", _WEB),
    Tunable("index_files", WORDS, ("index.html",), "what is served for a folder", _WEB),
    Tunable("enable_put", BOOL, False, "whether PUT stores files", _WEB),
    Tunable("enable_delete", BOOL, False, "whether DELETE removes files", _WEB),
    Tunable("enable_md5", BOOL, True, "whether PUT checks Content-MD5", _WEB),
    Tunable("max_put_size", SIZE, 0, "the largest file that PUT stores; 0: any", _WEB, "bytes"),
    Tunable("min_put_directory", INT, 0, "levels of folders that PUT must find", _WEB),
    Tunable(
        "enable_concatenate_get",
        BOOL,
        False,
        "whether /folder/??a.js,b.js gives several files at once",
        _WEB,
    ),
    Tunable(
        "default_service", OPTIONAL, "", "where requests go that nothing else takes", "selector"
    ),
    Tunable("latency", INT, 0, "a pause before each request, for tests", "selector", "ms"),
)
