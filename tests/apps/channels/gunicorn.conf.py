"""How gunicorn serves the shop."""

import ipaddress
import os
import socket
from pathlib import Path


def proxies() -> str:
    """Return what `forwarded_allow_ips` takes: this host, and the network shared with nginx alone.

    Workers reach web containers on another network, and are not believed. Only on this one has
    the container the name `backend-<release>`. The network stays when nginx gets another address.
    """
    trusted = ["127.0.0.1"]
    try:
        own = ipaddress.ip_address(socket.gethostbyname(f"backend-{os.environ.get('RELEASE', '')}"))
    except OSError:  # not in a stack
        return trusted[0]
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        _, base, gateway, _, _, _, _, mask, *_ = line.split()
        base, gateway, mask = (bytes.fromhex(text)[::-1] for text in (base, gateway, mask))
        network = ipaddress.ip_network((base, ipaddress.IPv4Address(mask).exploded))
        if not any(gateway) and own in network:
            trusted.append(str(network))
    return ",".join(trusted)


forwarded_allow_ips = proxies()
bind = "0.0.0.0:8000"
worker_class = "uvicorn_worker.UvicornWorker"
workers = 2
# Its default is a file in /tmp; memory is what the heartbeat of a worker needs.
worker_tmp_dir = "/dev/shm"
# Seconds for requests in flight after SIGTERM. Docker kills after its stop timeout, which must be
# longer: crisper gives a web container 45.
graceful_timeout = 40
# Nginx keeps connections of its own open; closing them first would race with its next request.
keepalive = 75
