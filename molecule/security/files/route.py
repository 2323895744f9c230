"""Connect to containers by a route to their addresses:  route.py <server> <address:port> …

Prints those that answered, as JSON.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys


def is_reached(server: str, address: str, port: int) -> bool:
    """Try one, with a route to it by the server for so long."""
    route = [f"{address}/32", "via", server]
    subprocess.run(["ip", "route", "replace", *route], check=True)
    try:
        with socket.create_connection((address, port), timeout=3):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    finally:
        subprocess.run(["ip", "route", "del", *route], check=True)


def main() -> None:
    """Try all."""
    server, *places = sys.argv[1:]
    pairs = [place.split(":") for place in places]
    print(json.dumps([f"{a}:{port}" for a, port in pairs if is_reached(server, a, int(port))]))


if __name__ == "__main__":
    main()
