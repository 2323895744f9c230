"""The stack's own redis.conf for a Redis of this machine: tests run as the application's user."""

from __future__ import annotations

import sys
from pathlib import Path

from jinja2 import Environment, StrictUndefined

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.crisper.stack.plugins.module_utils.model.redis_users import (  # noqa: E402
    ADDABLE,
    app_password,
    app_user,
    counts_clients,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.validators import size_bytes  # noqa: E402

__all__ = ["ADDABLE", "app_password", "app_user", "configuration", "url"]

STACK = "lab"


def configuration(
    password: str, port: int, folder: Path, *, commands: tuple[str, ...] = (), disk: bool = False
) -> str:
    """Return the rendered template, on a port of the loopback.

    Args:
        password: redis_password.
        port: where it listens.
        folder: its data, if any is kept.
        commands: stack_redis_commands.
        disk: whether it keeps its append-only file.
    """
    templates = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 (no HTML)
    templates.filters |= {
        "comment": "# {}".format,
        "crisper_redis_app_user": app_user,
        "crisper_redis_counts_clients": counts_clients,
        "crisper_size_bytes": size_bytes,
    }
    text = (ROOT / "templates/secrets/redis.conf.j2").read_text()
    rendered = templates.from_string(text).render(
        ansible_managed="lab",
        release_secrets={"redis_password": password},
        stack_name=STACK,
        stack_redis_commands=list(commands),
        # At least the version of this machine.
        stack_model={"limits": {"redis": {"memory": "512m"}}, "image_refs": {"redis": "redis:7.0"}},
    )
    for before, after in (
        ("bind * -::*", "bind 127.0.0.1"),
        ("port 6379", f"port {port}"),
        ("dir /data", f"dir {folder}"),
        ("appendonly yes", f"appendonly {'yes' if disk else 'no'}"),
    ):
        if f"\n{before}\n" not in rendered:
            raise ValueError(f"templates/secrets/redis.conf.j2 has no line {before!r} any more")
        rendered = rendered.replace(f"\n{before}\n", f"\n{after}\n")
    return rendered + "save ''\n"


def url(password: str, host: str, port: int, database: int = 0) -> str:
    """Return the URL that the application connects to."""
    return f"redis://app:{app_password(password, STACK)}@{host}:{port}/{database}"
