"""Tell where an application connects to: broker and result backend, without any login.

A program of the application (its web service) has what its settings and Celery's own variables say.
The commands ``celery worker`` and ``celery beat`` have another rule: BROKER_URL and RESULT_BACKEND
of the environment count before all else, as if they were given by ``-b`` and ``--result-backend``.
"""

from __future__ import annotations

import os
import re
from typing import Any

LOGIN = re.compile(r"(?<=//)[^/@\s]*@")
# Variable that the command reads -> the one that it then sets (celery.bin.celery).
COMMAND = {"BROKER_URL": "CELERY_BROKER_URL", "RESULT_BACKEND": "CELERY_RESULT_BACKEND"}
DISABLED = ("", "disabled", "disabled://")


def endpoints(app: Any) -> dict[str, Any]:
    """Return ``{broker, backend, transport}``; of the first two what library and command use."""
    library = broker_of(app), backend_of(app)
    environment = dict(os.environ)
    try:
        for name, variable in COMMAND.items():
            if os.environ.get(name):
                os.environ[variable] = os.environ[name]
        command = broker_of(app), backend_of(app)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return {
        "broker": {"library": library[0], "command": command[0]},
        "backend": {"library": library[1], "command": command[1]},
        "transport": library[0].partition(":")[0],
    }


def broker_of(app: Any) -> str:
    """Return where tasks are sent to, such as ``redis://redis:6379/0``."""
    try:
        return broker_address(app.connection_for_write(url=app.conf.broker_write_url).info())
    except Exception as error:  # an URL that kombu does not read, a transport without its package
        return "(" + type(error).__name__ + ")"


def broker_address(info: Any) -> str:
    """Return the address in kombu's ``Connection.info``, which workers tell in `stats` as well."""
    if not isinstance(info, dict) or not info.get("transport"):
        return ""
    port = ":" + str(info["port"]) if info.get("port") else ""
    path = str(info.get("virtual_host") or "/").lstrip("/")
    host = str(info.get("hostname") or "")
    return LOGIN.sub("", str(info["transport"]) + "://" + host + port + "/" + path)


def backend_of(app: Any) -> str:
    """Return where results are stored, without a login; empty where they are not."""
    url = str(app.conf.result_backend or "")
    return "" if url in DISABLED else LOGIN.sub("", url.partition("?")[0])
