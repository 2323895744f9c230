"""Whether the web server is shutting down: open streams end by themselves then.

Neither uvicorn nor gunicorn ends a response that streams for ever: they wait for it, then cut the
connection, and the client sees a broken answer instead of the end of one.
"""

import asyncio
import signal
from types import FrameType

_stopping = asyncio.Event()
_installed = False


def _watch_signal() -> None:
    """Notice SIGTERM, in front of the server's own handler; called in the event loop's thread."""
    global _installed
    if _installed:
        return
    _installed = True
    loop = asyncio.get_running_loop()
    of_server = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(_stopping.set)
        if callable(of_server):
            of_server(number, frame)

    signal.signal(signal.SIGTERM, handle)


async def wait_for_shutdown(seconds: float) -> bool:
    """Return True as soon as the server shuts down, False after a number of seconds."""
    _watch_signal()
    try:
        async with asyncio.timeout(seconds):
            await _stopping.wait()
    except TimeoutError:
        return False
    return True
