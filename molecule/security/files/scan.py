"""Which of all TCP ports of some addresses accept a connection: JSON of address to ports."""

import json
import select
import socket
import sys
import time

AT_ONCE, SECONDS = 16000, 2.0


def tried(address: str, ports: range) -> list[int]:
    """Those of the ports that accept a connection within the time, tried all at once."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    waiting, found = {}, []
    poll = select.epoll()
    for port in ports:
        one = socket.socket(family)
        one.setblocking(False)
        one.connect_ex((address, port))
        waiting[one.fileno()] = (one, port)
        poll.register(one, select.EPOLLOUT)
    ends = time.monotonic() + SECONDS
    while waiting and (left := ends - time.monotonic()) > 0:
        for number, _ in poll.poll(left):
            one, port = waiting.pop(number)
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(port)
            one.close()
    for one, _ in waiting.values():
        one.close()
    poll.close()
    return found


def scanned(address: str) -> list[int]:
    """All ports of the address that do."""
    groups = (range(first, min(first + AT_ONCE, 65536)) for first in range(1, 65536, AT_ONCE))
    return sorted(port for ports in groups for port in tried(address, ports))


print(json.dumps({address: scanned(address) for address in sys.argv[1:]}))
