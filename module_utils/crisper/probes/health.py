"""Exit with 0 when the application answers its health path with an expected status.

The health check of the web containers, as ``python -IS -c`` with this text: sockets only, because
importing an HTTP client takes five times as long, each second of a start.
"""

from __future__ import annotations

import socket
import sys
import time

SECONDS = 4  # the engine ends the check after 5


def ask(port: int, request: bytes, wanted: list[str]) -> tuple[bytes, str]:
    """Return what the application said, at least its status line, and what went wrong.

    Without an expected status the headers are read too: one of them tells where a redirect leads.
    """
    ends, answer = time.monotonic() + SECONDS, b""
    try:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as web:
            web.sendall(request)
            while len(answer) < 65536:
                web.settimeout(max(0.001, ends - time.monotonic()))
                part = web.recv(8192)
                answer += part
                line, end, _ = answer.partition(b"\n")
                if not part or (end and status_of(line) in wanted):
                    break
                if b"\n\n" in answer.replace(b"\r", b""):
                    break
    except socket.timeout:
        return answer, f"did not answer within {SECONDS} s"
    except ConnectionRefusedError:
        return answer, f"failed: Connection refused, nothing listens on port {port}"
    except OSError as error:
        return answer, f"failed: {error}"
    return answer, "was not answered"


def status_of(line: bytes) -> str:
    """Return the status of a status line; empty when it is none."""
    words = line.split(None, 2)
    is_http = len(words) > 1 and words[0].startswith(b"HTTP/1.")
    return words[1].decode() if is_http and len(words[1]) == 3 and words[1].isdigit() else ""


def printable(text: bytes) -> str:
    """Return bytes as one line of a health log."""
    line = text.decode("ascii", "replace").strip()[:300]
    return "".join(one if one.isprintable() else "?" for one in line)


def judge(answer: bytes, problem: str, wanted: list[str]) -> str:
    """Return why the answer is not healthy; empty when it is."""
    line, end, headers = answer.partition(b"\n")
    status = status_of(line) if end else ""
    if status in wanted:
        return ""
    if not status:
        return problem + (f"; it said only {printable(line)!r}" if answer else "")
    text = "answered " + printable(line.split(None, 1)[1])
    for header in headers.split(b"\n"):
        name, _, value = header.partition(b":")
        if name.strip().lower() == b"location":
            text += ", Location " + printable(value)
    text += " (expected " + " or ".join(wanted) + ")"
    if status == "400":
        text += "; does the application accept this Host (Django: ALLOWED_HOSTS)?"
    return text


def main(port: str, path: str, host: str, scheme: str, wanted: str) -> None:
    """Ask once; the reason goes into the health log of the container."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: {scheme}\r\n"
        "User-Agent: crisper-health\r\nConnection: close\r\n\r\n"
    )
    expected = wanted.split(",")
    reason = judge(*ask(int(port), request.encode(), expected), expected)
    if reason:
        sys.exit(f"GET {path} with Host {host} {reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
