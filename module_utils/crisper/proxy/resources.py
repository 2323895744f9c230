"""Resources of the entry point: how many workers, connections and open files nginx gets.

Pure functions of checked variables. The templates of nginx and Compose both take their numbers
here, so that the two agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.validators import BODY_SIZE, UNITS, size_bytes

# Two, so that one serves while the other waits for the disk. More than 64 were never measured.
MIN_WORKERS, MAX_WORKERS = 2, 64
# Bytes that a request takes while its client is slow: 36 kB of an answer or 16 kB of a body, 136
# kB where nginx compresses, and TLS (measured: 114 kB each for 1,000, a third of them compressed).
# More requests at once than fit into the memory would end nginx and with it all requests; more
# than there are connections for fail alone.
REQUEST_MEMORY, REQUESTS_SHARE, MIN_REQUESTS = 96 * 1024, 0.75, 256
# A worker keeps 424 bytes for each of its connections, used or not. The kernel does not give
# connections to workers evenly, so that a worker needs some to spare.
MIN_CONNECTIONS, MAX_CONNECTIONS = 512, 4096
# Limit of every container. An engine in a container may not exceed its own limit, and starts no
# container that asks for more: a generous number here would be a stack that does not start there.
OPEN_FILES = 16384
# Bytes of disk for request bodies on their way; the number of bodies follows from it.
BODIES_DISK = 8 * 1024**3
MIN_BODIES, MAX_BODIES = 16, 2048


def body_bytes(size: Any) -> int:
    """Return the bytes of a size in nginx's notation, such as ``10m``; 0 stands for "no limit".

    Raises:
        ValueError: `size` is not in nginx's notation.
    """
    match = BODY_SIZE.match(str(size))
    if match is None:
        raise ValueError(f"{size!r} is not a size in nginx's notation: give one such as 10m.")
    return int(match["number"]) * UNITS.get(match["unit"].lower(), 1)


def entry_resources(
    limit: Mapping[str, Any],
    max_body_size: Any,
    locations: Sequence[Mapping[str, Any]] = (),
    client_connections: Any = "auto",
) -> dict[str, int]:
    """Return the numbers of nginx that follow from its container's limit.

    Args:
        limit: ``stack_limits.nginx``, its ``cpus`` and ``memory``.
        max_body_size: ``stack_max_body_size``.
        locations: ``proxy.locations`` of the model; those with a ``body_size`` of their own count
            where bodies are buffered.
        client_connections: stack_client_connections, a number or ``auto``.

    Returns:
        ``workers``; ``connections`` of each worker; ``worker_files``, the open files of a worker
        (two temporary files for a connection to the backend, one for the body and one for the
        answer; the rest is for logs and listening sockets); ``open_files``, the limit of each
        container; ``bodies``, the number of request bodies that may be on disk at once;
        ``clients``, the number of requests that one client may have under way, 0 for any.
    """
    workers = min(max(math.ceil(float(limit["cpus"])), MIN_WORKERS), MAX_WORKERS)
    memory = size_bytes(limit["memory"]) or 0
    requests = max(int(memory * REQUESTS_SHARE) // REQUEST_MEMORY, MIN_REQUESTS)
    # Two for each request: the client's and the backend's.
    connections = min(max(math.ceil(2 * requests / workers), MIN_CONNECTIONS), MAX_CONNECTIONS)
    capacity = min(requests, workers * connections // 2)
    return {
        "workers": workers,
        "connections": connections,
        "worker_files": 4 * connections,
        "open_files": OPEN_FILES,
        "bodies": _bodies(max_body_size, locations),
        # Half of them: load tests and the people behind one address share it, and one client that
        # keeps all of its requests open leaves the other half to everybody else.
        "clients": int(capacity / 2 if client_connections == "auto" else client_connections),
    }


def _bodies(max_body_size: Any, locations: Sequence[Mapping[str, Any]]) -> int:
    """Return how many bodies of the largest size the disk for them holds."""
    own = [location["body_size"] for location in locations if location.get("request_buffering")]
    sizes = [body_bytes(size) for size in [max_body_size, *own] if size != ""]
    bodies = BODIES_DISK // max(sizes) if all(sizes) else MIN_BODIES
    return min(max(bodies, MIN_BODIES), MAX_BODIES)
