"""Variables of a stack that has no problem, and one with its own certificate."""

from __future__ import annotations

import copy
from typing import Any

GOOD = {
    "stack_name": "crisper",
    "stack_root": "/opt/crisper",
    "stack_http_port": 80,
    "stack_bind_address": "0.0.0.0",  # noqa: S104
    "stack_tls": "none",
    "stack_https_port": 443,
    "stack_server_names": [],
    "stack_tls_certificate": "",
    "stack_tls_key": "",
    "stack_hsts_seconds": 0,
    "stack_security_headers": {"X-Frame-Options": "DENY", "Referrer-Policy": ""},
    "stack_max_body_size": "10m",
    "image_source": "auto",
    "mariadb_enabled": False,
    "stack_secrets": {},
    "stack_secrets_generate": True,
    "stack_limits": {
        name: {"memory": "128m", "cpus": 0.5}
        for name in (
            [
                "nginx",
                "frontend",
                "backend",
                "celery-beat",
                "postgres",
                "redis",
                "qdrant",
                "mariadb",
            ]
        )
    },
    "celery_workers": [
        {"name": "default", "queues": ["default"], "concurrency": 2, "memory": "1g", "cpus": 0.5}
    ],
    "celery_task_soft_time_limit": 3300,
    "celery_task_time_limit": 3600,
    "celery_visibility_timeout": 43200,
    "celery_drain_timeout": 300,
    "celery_stop_grace_period": 330,
    "stack_app": {
        "build": {"context": "app"},
        "web": {"command": ["serve"], "port": 8000, "health_path": "/health"},
        "celery": {"app": "project.celery", "beat": True},
    },
}


OWN = GOOD | {
    "stack_tls": "own",
    "stack_server_names": ["App.example", "192.0.2.1", "2001:db8::1"],
    "stack_tls_certificate": "/x/chain.pem",
    "stack_tls_key": "/x/key.pem",
    "stack_hsts_seconds": 300,
}


def changed(path: str, value: object) -> dict[str, Any]:
    """GOOD with one value replaced, by a dotted path."""
    values = copy.deepcopy(GOOD)
    target = values
    *parents, last = path.split(".")
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return values
