"""What the containers of this server's stack reach: the attack of a compromised container.

    reach.py [address:port …]      addresses outside that are tried besides

Prints ``{service: {"host": [...], "peers": [...], "outside": [...]}}``. Who refuses a connection is
reached: its answer came. The network namespace of a container is entered from the host, so that
images need no tools.
"""

import json
import subprocess
import sys

TRY = """
import json, os, select, socket, sys, time
wanted, pending, reached = json.load(sys.stdin), {}, []
for name, address, port in wanted:
    link = socket.socket()
    link.setblocking(False)
    code = link.connect_ex((address, port))
    if code == 115:  # EINPROGRESS; without a route it is another one, at once
        pending[link.fileno()] = (link, name)
    elif code in (0, 111):  # ECONNREFUSED
        reached.append(name)
poll, end = select.poll(), time.monotonic() + 1
for number in pending:
    poll.register(number, select.POLLOUT)
while pending and time.monotonic() < end:
    for number, _event in poll.poll(100):
        poll.unregister(number)
        link, name = pending.pop(number)
        if link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, 111):
            reached.append(name)
print(json.dumps(sorted(set(reached))))
"""
PORTS = {"nginx": 8080, "frontend": 8080, "backend": 8000}
PORTS |= {"postgres": 5432, "redis": 6379, "qdrant": 6333}


def run(*command: str, **given: str) -> str:
    """Output of a command that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, **given).stdout


def host_addresses() -> list[str]:
    """IPv4 addresses of this server, those of the stack's bridges among them."""
    links = json.loads(run("ip", "-json", "-4", "address"))
    found = [info["local"] for link in links for info in link["addr_info"]]
    return [address for address in found if not address.startswith("127.")]


def main() -> None:
    """Try everything out of one container of each service."""
    ids = run("docker", "ps", "--quiet", "--filter", "label=com.docker.compose.project").split()
    containers = {}
    for record in json.loads(run("docker", "inspect", *ids)):
        containers[record["Config"]["Labels"]["com.docker.compose.service"]] = record
    # A port that nothing listens on refuses; 169.254.169.254 is one of the host's where a test
    # has put it there.
    host = [[f"{a}:22", a, 22] for a in [*host_addresses(), "169.254.169.254"]]
    outside = [[name, *name.split(":")] for name in sys.argv[1:]]
    outside = [[name, address, int(port)] for name, address, port in outside]
    peers = [
        [service, settings["IPAddress"], PORTS[service]]
        for service, record in containers.items()
        for settings in record["NetworkSettings"]["Networks"].values()
        if service in PORTS and settings["IPAddress"]
    ]
    answer = {}
    for service, record in containers.items():
        pid = record["State"]["Pid"]
        others = [peer for peer in peers if peer[0] != service]
        answer[service] = {}
        for kind, wanted in (("host", host), ("peers", others), ("outside", outside)):
            enter = ("nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", TRY)
            answer[service][kind] = json.loads(run(*enter, input=json.dumps(wanted)))
    print(json.dumps(answer))


main()
