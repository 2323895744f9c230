"""TLS, names and headers of the entry point, nginx: what the model says of them (no I/O).

Locations, limits and hosts of nginx are those of ``proxy.entry``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..proxy.entry import entry_model
from ..proxy.public_url import HOST, public_site, url_host
from .validators import TLS_SOURCES, is_address, quoted, whole

HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")
HSTS = "Strict-Transport-Security"


def entry_point(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how browsers reach the stack; see `build.StackModel`."""
    source = str(values.get("stack_tls", "none"))
    secure = source != "none"
    names = [str(name).lower() for name in values.get("stack_server_names") or []]
    extra = values.get("stack_security_headers") or {}
    headers = {str(name): str(value) for name, value in extra.items() if value}
    seconds = int(values.get("stack_hsts_seconds", 0))
    if seconds:
        headers[HSTS] = f"max-age={seconds}"
    proxy = {
        "tls": source if secure else "",
        "scheme": "https" if secure else "http",
        "port": int(values["stack_https_port" if secure else "stack_http_port"]),
        "names": names,
        "host": url_host(names[0]) if names else "",
        "headers": headers,
        **entry_model(values),
    }
    return {**proxy, "public": public_site(values, proxy)}


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the variables of TLS, names and headers, with the remedy."""
    source = values.get("stack_tls", "none")
    if source not in TLS_SOURCES:
        return  # FORMS has the finding
    secure = source != "none"
    if secure and str(values.get("stack_http_port")) == str(values.get("stack_https_port")):
        yield (
            f"stack_http_port and stack_https_port are both {values.get('stack_https_port')}:"
            " give each its own."
        )
    yield from _name_problems(values.get("stack_server_names") or [], secure)
    files = ("stack_tls_certificate", "stack_tls_key")
    for name in files:
        value = str(values.get(name) or "")
        if source in ("own", "acme") and not value:
            yield f"{name} is not set: stack_tls '{source}' needs it (docs/SECURITY.md)."
        elif value and source not in ("own", "acme"):
            yield f"{name} is {quoted(value)}, but stack_tls is '{source}': remove it, or set own."
        elif value and not value.startswith("/"):
            yield f"{name} is {quoted(value)}: give an absolute path."
    seconds = whole(values.get("stack_hsts_seconds", 0))
    if seconds and not secure:
        yield f"stack_hsts_seconds is {seconds}, but stack_tls is 'none': browsers ignore it there."
    yield from _header_problems(values.get("stack_security_headers") or {})


def _name_problems(names: Any, secure: bool) -> Iterator[str]:
    if not isinstance(names, Sequence) or isinstance(names, str):
        yield f"stack_server_names is {quoted(names)}: give a list of host names."
        return
    if secure and not names:
        yield "stack_server_names is empty: TLS needs the names that browsers ask for."
    for name in names:
        if not is_address(name) and not HOST.match(str(name)):
            yield (
                f"stack_server_names: {quoted(name)} is neither a host name nor an address. Write"
                " the name alone, such as shop.example.com; scheme, port and path belong into"
                " stack_public_url."
            )


def _header_problems(headers: Any) -> Iterator[str]:
    if not isinstance(headers, Mapping):
        yield f"stack_security_headers is {quoted(headers)}: give a mapping of headers to values."
        return
    for name, value in headers.items():
        where = f"stack_security_headers.{name}"
        if not HEADER.match(str(name)):
            yield f"{where}: this is no name of a header (letters, digits, '-')."
        elif str(name).lower() == HSTS.lower():
            yield f"{where} is set: stack_hsts_seconds is its place."
        if "$" in str(value) or not str(value).isprintable():
            yield f"{where} is {quoted(value)}: use printable characters without '$'."
