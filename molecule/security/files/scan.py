"""Which of all TCP ports of some addresses accept a connection: JSON of address to ports."""

import asyncio
import json
import sys

AT_ONCE, SECONDS = 3000, 1.0


async def tried(address: str, port: int, room: asyncio.Semaphore) -> bool:
    """Whether the port accepts a connection."""
    async with room:
        try:
            opened = asyncio.open_connection(address, port)
            _, writer = await asyncio.wait_for(opened, SECONDS)
        except OSError:
            return False
        writer.close()
        return True


async def scanned(address: str) -> list[int]:
    """All ports of the address that do."""
    room = asyncio.Semaphore(AT_ONCE)
    ports = range(1, 65536)
    found = await asyncio.gather(*(tried(address, port, room) for port in ports))
    return [port for port, is_open in zip(ports, found, strict=True) if is_open]


async def main() -> None:
    """Scan every address named on the command line, side by side."""
    addresses = sys.argv[1:]
    found = await asyncio.gather(*map(scanned, addresses))
    print(json.dumps(dict(zip(addresses, found, strict=True))))


asyncio.run(main())
