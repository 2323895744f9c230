"""Who sends a request: a logged-in user or a guest with a cookie, and from which address."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.auth import user_of
from backend.proxies import Proxies, parse_address
from backend.settings import settings

COOKIE = "guest"
DAYS = 180  # that a browser keeps the cookie
GUEST = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{32})")
PRIVATE = "private"  # an answer that depends on who asks
UNKNOWN = "unknown"  # the address of a peer that has none, as on a Unix socket


@dataclass(frozen=True)
class Caller:
    """Who asks. `address` is one client: an IPv4 address, or an IPv6 network of 64 bits."""

    user: str | None
    guest: str | None
    address: str

    @property
    def bucket(self) -> str:
        """What limits count by: the user, or the address of everybody else.

        Never the cookie: who drops it would be a new client with each request.
        """
        return f"user:{self.user}" if self.user else f"address:{self.address}"

    @property
    def owners(self) -> list[str]:
        """Whose things the caller may read; the first one owns what the caller starts."""
        owners = [f"user:{self.user}"] if self.user else []
        return owners + ([f"guest:{self.guest}"] if self.guest else [])


@lru_cache
def key() -> bytes:
    """Key of cookies and of ids, from SECRET_KEY.

    Without SECRET_KEY each process has one of its own: what one process gave out, another refuses.
    """
    secret = settings().secret_key.encode() or secrets.token_bytes(32)
    return hmac.digest(secret, b"crisper guests and owners", "sha256")


def mac(*parts: str) -> bytes:
    """Authentication code over parts, none of which contains a NUL."""
    return hmac.digest(key(), "\0".join(parts).encode(), "sha256")


def sign_guest(guest: str) -> str:
    """Return the value of a guest's cookie."""
    return f"{guest}.{mac('cookie', guest).hex()[:32]}"


def read_cookie(cookie: str) -> str | None:
    """Return the guest whose cookie this is; None for a value that this site did not sign."""
    match = GUEST.fullmatch(cookie)
    known = match is not None and hmac.compare_digest(sign_guest(match[1]), cookie)
    return match[1] if match and known else None


@lru_cache
def proxies() -> Proxies:
    """Those of this process whose X-Forwarded-* headers are believed."""
    return Proxies(settings().trusted_proxies)


def client_address(peer: str, forwarded: str) -> str:
    """Return the client's address: the peer, or what a trusted proxy says of it.

    Of X-Forwarded-For only the last address counts: the proxy itself wrote that one.
    """
    named = forwarded.rpartition(",")[2].strip() if proxies().trusts(peer) else ""
    return _client(named) or _client(peer) or UNKNOWN


def _client(text: str) -> str:
    """One client: a subscriber of IPv6 has all addresses of a network of 64 bits."""
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address or "")


def _peer(scope: Scope) -> str:
    return (scope.get("client") or ("", 0))[0]


def caller(request: Request) -> Caller:
    """Return who asks. 401 for a bearer token that is not valid: its sender thinks to be known."""
    request.scope.setdefault("state", {})[PRIVATE] = True
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return Caller(
        user=user_of(token.strip()) if scheme.lower() == "bearer" else None,
        guest=read_cookie(request.cookies.get(COOKIE, "")),
        address=client_address(_peer(request.scope), request.headers.get("x-forwarded-for", "")),
    )


def starter(request: Request) -> Caller:
    """Return who asks for something to own; a stranger becomes a guest, by a cookie."""
    who = caller(request)
    if who.owners:
        return who
    guest = secrets.token_hex(16)
    request.scope.setdefault("state", {})[COOKIE] = guest
    return Caller(user=None, guest=guest, address=who.address)


# Plain functions would each take a thread, of which there are few while many ask.
async def _caller(request: Request) -> Caller:
    await _know_the_peer(request)
    return caller(request)


async def _starter(request: Request) -> Caller:
    await _know_the_peer(request)
    return starter(request)


async def _know_the_peer(request: Request) -> None:
    if any(name in request.headers for name in ("x-forwarded-for", "x-forwarded-proto")):
        await proxies().refresh(_peer(request.scope))


Asking = Annotated[Caller, Depends(_caller)]
Starting = Annotated[Caller, Depends(_starter)]


class CallerHeaders:
    """ASGI middleware: give a new guest the cookie, and let no cache keep what is one caller's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add to the answer's headers, whatever the answer is."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if PRIVATE in state:
                    headers.setdefault("Cache-Control", "private, no-store")
                if COOKIE in state:
                    cookie = f"{COOKIE}={sign_guest(state[COOKIE])}; Path=/; Max-Age={DAYS * 86400}"
                    cookie += "; HttpOnly; SameSite=Strict"
                    headers.append("Set-Cookie", cookie + ("; Secure" if is_secure(scope) else ""))
            await send(message)

        await self.app(scope, receive, with_headers)


def is_secure(scope: Scope) -> bool:
    """Whether the browser speaks HTTPS, as a trusted proxy says."""
    trusted = proxies().trusts(_peer(scope))
    named = Headers(scope=scope).get("x-forwarded-proto", "") if trusted else ""
    return (named or scope["scheme"]) == "https"


def new_id(owner: str | None) -> str:
    """Return an id in the form of a random UUID that only its owner may read by.

    48 bits are random, 40 mark it as such an id and 40 name the owner (6 of all are the UUID's
    own). So no store has to know whose it is, and ids of earlier releases, which have no mark, can
    be told from these. The mark needs no key: after a change of SECRET_KEY such an id is nobody's.
    Without an owner nobody can read by it.
    """
    return _derive_id(secrets.token_bytes(6), owner or secrets.token_hex(16))


def is_owned(made_id: str) -> bool:
    """Whether `new_id` made this id, for whomever."""
    raw = _bytes(made_id)
    return raw is not None and _derive_id(raw[:6], "")[:26] == made_id[:26]


def may_read(made_id: str, who: Caller) -> bool:
    """Whether the caller may read what has this id.

    Ids that `new_id` did not make are of no owner, such as those of earlier releases: as random
    UUIDs they were given to who began it alone, and knowing one is enough.
    """
    if not is_owned(made_id):
        return True
    seed = _bytes(made_id)[:6]
    return any(hmac.compare_digest(_derive_id(seed, owner), made_id) for owner in who.owners)


def _bytes(text: str) -> bytes | None:
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return None
    return bytes.fromhex(text.replace("-", ""))


def _derive_id(seed: bytes, owner: str) -> str:
    mark = hashlib.sha256(b"crisper owned id" + seed).digest()[:5]
    raw = bytearray(seed + mark + mac("id", seed.hex(), owner)[:5])
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
