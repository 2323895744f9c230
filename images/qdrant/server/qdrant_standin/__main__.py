"""Reads the settings that the official image reads from its environment, and serves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn

from .app import create_app


def setting(name: str, default: str) -> str:
    return os.environ.get(f"QDRANT__{name}") or default


def main() -> None:
    storage = Path(setting("STORAGE__STORAGE_PATH", "./storage"))
    try:
        port = int(setting("SERVICE__HTTP_PORT", "6333"))
        megabytes = int(setting("SERVICE__MAX_REQUEST_SIZE_MB", "32"))
        app = create_app(
            storage,
            api_key=setting("SERVICE__API_KEY", "") or None,
            max_request_bytes=megabytes * 1024 * 1024,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"qdrant: cannot start with storage {storage}: {error}")
    uvicorn.run(
        app,
        host=setting("SERVICE__HOST", "0.0.0.0"),  # noqa: S104 - the container's own network
        port=port,
        log_level=setting("LOG_LEVEL", "INFO").lower(),
        access_log=False,
        timeout_graceful_shutdown=10,
    )


main()
