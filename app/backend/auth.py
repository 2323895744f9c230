"""Admin login: hashed password, short-lived tokens, wrong credentials slowed down."""

from __future__ import annotations

import asyncio
import hmac
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import Depends, HTTPException, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.settings import settings

WRONG_SECONDS = 1.0  # how long a wrong login takes at least, whatever was wrong
ALGORITHM = "HS256"
bearer = HTTPBearer(auto_error=False)
hasher = PasswordHasher(memory_cost=19456, time_cost=2, parallelism=1)  # OWASP's minimum


@lru_cache
def _hash() -> str:
    """Hash of the configured password, made once per process: the plain one is not compared."""
    return hasher.hash(settings().admin_password)


async def check(username: str, password: str) -> str:
    """A token for the right credentials.

    Raises:
        HTTPException: 401 for wrong ones, after WRONG_SECONDS; 503 when no password is set.
    """
    if not settings().admin_password or not settings().secret_key:
        raise HTTPException(503, "Login is off: ADMIN_PASSWORD or SECRET_KEY is not set.")
    started = time.monotonic()
    known = hmac.compare_digest(username.encode(), settings().admin_username.encode())
    try:
        right = await asyncio.to_thread(hasher.verify, _hash(), password)
    except VerifyMismatchError:
        right = False
    if known and right:
        expires = datetime.now(UTC) + timedelta(minutes=settings().token_minutes)
        return jwt.encode({"sub": username, "exp": expires}, settings().secret_key, ALGORITHM)
    await asyncio.sleep(max(0.0, WRONG_SECONDS - (time.monotonic() - started)))
    raise HTTPException(status.HTTP_401_UNAUTHORIZED, "Wrong user name or password.")


def user_of(token: str) -> str:
    """Return the user's name from a token; 401 for one that is not valid."""
    if not settings().secret_key:  # else everybody could sign with an empty one
        raise HTTPException(401, "Login is off: SECRET_KEY is not set.")
    try:
        claims = jwt.decode(token, settings().secret_key, algorithms=[ALGORITHM])
    except jwt.ExpiredSignatureError:
        raise HTTPException(401, "The token has expired: log in again.") from None
    except jwt.InvalidTokenError:
        raise HTTPException(401, "The token is not valid: log in again.") from None
    return str(claims["sub"])


def admin(token: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    """The admin's name from the bearer token; 401 without a valid one."""
    if token is None:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "Log in first: POST /admin/login.")
    return user_of(token.credentials)


Admin = Annotated[str, Depends(admin)]
