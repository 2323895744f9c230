"""HTTP with one request per connection.

Over HTTPS it goes to an address, by a name, and trusts the certificates that it is called with.

Standard library only and Python 3.8: this file also runs inside a container, together with
``probes.ledger``.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# Python 3.10 has it as ssl.VERIFY_X509_PARTIAL_CHAIN; the number is OpenSSL's.
PARTIAL_CHAIN = 0x80000
# Bytes of a body that are read: an application may answer without an end.
MOST = 64 << 20


def trusting(certificates: str) -> ssl.SSLContext:
    """Return a context that trusts these certificates (PEM), leaves and intermediates included.

    Name and dates are checked as always.

    Raises:
        ssl.SSLError: there is no certificate in the text.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificates)
    return context


def connect(
    address: str,
    port: int,
    name: str,
    context: ssl.SSLContext | None,
    timeout: float,
    proxied: bool = False,
) -> http.client.HTTPConnection:
    """Return a connection whose certificate is that of `name`; plain without `context`.

    `proxied` introduces it by the PROXY protocol, as a listener that expects it needs.

    Raises:
        OSError: nobody answers, or the certificate is not to be trusted (ssl.SSLError).
    """
    raw = socket.create_connection((address, port), timeout=timeout)
    connection = http.client.HTTPConnection(name, port, timeout=timeout)
    try:
        if proxied:
            raw.sendall(proxy_line(raw.getsockname(), raw.getpeername()))
        connection.sock = context.wrap_socket(raw, server_hostname=name) if context else raw
    except BaseException:
        raw.close()
        raise
    return connection


def proxy_line(source: tuple[Any, ...], destination: tuple[Any, ...]) -> bytes:
    """Return the header of the PROXY protocol, version 1, for two addresses of a socket.

    HAProxy's specification (proxy-protocol.txt, 2.1): family, addresses, ports.
    """
    family = "TCP6" if ":" in source[0] else "TCP4"
    ends = (family, source[0], destination[0], source[1], destination[1])
    return ("PROXY " + " ".join(map(str, ends)) + "\r\n").encode()


def get(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str]
) -> tuple[int, str]:
    """Return status and Location of one request; redirects are not followed.

    No proxy of the environment is used: `connection` goes where it says.

    Raises:
        OSError: nobody answers, or not all of it within twice the connection's time-out.
        http.client.HTTPException: the answer is not HTTP, or is cut off.
    """
    try:
        connection.request("GET", path, headers=headers)
        with _cut_off(connection.sock, 2 * (connection.timeout or 0)):
            answer = connection.getresponse()
            _pass_over(answer)
        return answer.status, answer.getheader("Location") or ""
    finally:
        connection.close()


@contextmanager
def _cut_off(sock: socket.socket, seconds: float) -> Iterator[None]:
    """End what is received when it takes longer: each byte begins a socket's own time-out anew."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):  # it has ended by itself
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise socket.timeout("timed out") from None  # noqa: UP041 - Python 3.8
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise socket.timeout("timed out")  # noqa: UP041 - Python 3.8


def _pass_over(answer: http.client.HTTPResponse) -> None:
    """Read the body to its end, or its first MOST bytes, and keep nothing of it.

    Raises:
        http.client.IncompleteRead: it was cut off.
    """
    remaining = MOST
    while remaining > 0:
        piece = answer.read(min(remaining, 1 << 16))
        if not piece:
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
            return
        remaining -= len(piece)


def reason(error: Exception) -> str:
    """Return why `get` failed, in a few words."""
    if isinstance(error, socket.timeout):  # TimeoutError since Python 3.10
        return "timed out"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut off"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed connection without an answer"
    if isinstance(error, http.client.BadStatusLine):
        return "the answer is not HTTP: " + repr(error.args[0])[:100]
    return str(error) or type(error).__name__
