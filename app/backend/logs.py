"""Logs of web, workers and beat: one JSON object per line, joined by request and task id."""

from __future__ import annotations

import logging
from datetime import datetime
from logging.config import dictConfig
from typing import Any

from celery import current_task
from celery.signals import setup_logging, task_received
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from backend.redaction import redact
from backend.request_id import current_request_id
from backend.settings import settings

FIELDS = ("levelname", "name", "message", "request_id", "task_id", "task")
TEXT = "%(asctime)s %(levelname)s %(name)s request=%(request_id)s task=%(task_id)s %(message)s"
log = logging.getLogger(__name__)


class Context(logging.Filter):
    """Adds ids to each record, and the parts of uvicorn's access lines as fields."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Fields that someone passed as `extra` stay as they are."""
        request = current_task.request if current_task else None
        known = {
            "request_id": current_request_id(),
            "task_id": request and request.id,
            "task": request and request.task,
        }
        if record.name == "uvicorn.access" and isinstance(record.args, tuple):
            names = ("client", "method", "path", "http_version", "status")
            known |= dict(zip(names, record.args, strict=False))
        for name, value in known.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class Json(JsonFormatter):
    """Fields that say nothing are left out; secrets never appear."""

    def __init__(self) -> None:
        super().__init__(
            FIELDS,
            rename_fields={"levelname": "level", "name": "logger"},
            # `data` is Celery's copy of the message's parts, with the task's arguments.
            reserved_attrs=[*RESERVED_ATTRS, "data", "color_message"],
            timestamp="time",
            json_ensure_ascii=False,
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Before the JSON is made, because its escapes would hide a secret from the search."""
        return {
            name: value if isinstance(value, int | float | datetime) else redact(str(value))
            for name, value in log_data.items()
            if value is not None
        }


class Text(logging.Formatter):
    """For a person's terminal."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback's lines, without secrets."""
        return redact(super().format(record))


def configure(default_level: int | str = "INFO") -> None:
    """Send all loggers of this process to one handler.

    Args:
        default_level: used unless LOG_LEVEL is set.
    """
    chosen = settings()
    level = chosen.log_level if "log_level" in chosen.model_fields_set else default_level
    through = {"handlers": [], "propagate": True}
    dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"context": {"()": Context}},
            "formatters": {"json": {"()": Json}, "text": {"()": Text}},
            "handlers": {
                "lines": {
                    "class": "logging.StreamHandler",
                    "formatter": chosen.log_format,
                    "filters": ["context"],
                }
            },
            "root": {"level": level, "handlers": ["lines"]},
            "loggers": {
                **{
                    f"uvicorn{part}": through | {"level": level}
                    for part in ("", ".access", ".error")
                },
                # Clients that would log each of their requests; what they ask for shows elsewhere.
                "httpx": {"level": "WARNING"},
                # Tells that a task was received without its request: `received` does.
                "celery.worker.strategy": {"level": "WARNING"},
            },
        }
    )


@setup_logging.connect
def configure_celery(loglevel: int, **_: Any) -> None:
    """Instead of Celery's own set-up, in workers and beat; `loglevel` is the command's."""
    configure(loglevel)


@task_received.connect
def received(request: Any, **_: Any) -> None:
    """A worker took a task from its queue; the main process has no current task."""
    ids = {"task_id": request.id, "task": request.name}
    ids["request_id"] = request.request_dict.get("request_id")
    log.info("Task %s[%s] received", request.name, request.id, extra=ids)
