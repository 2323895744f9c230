"""The views: pages, uploads, downloads and streams."""

import asyncio
import hashlib
import json
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from .models import Order
from .shutdown import wait_for_shutdown
from .tasks import work

RELEASE = os.environ.get("RELEASE", "unknown")
PIECE = 64 * 1024  # bytes


def index(request: HttpRequest) -> HttpResponse:
    """Return a page that uses static files."""
    response = render(request, "shop/index.html", {"release": RELEASE})
    response["X-Release"] = RELEASE
    return response


def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 when the database answers."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    response = JsonResponse({"status": "ok", "release": RELEASE})
    response["X-Release"] = RELEASE
    return response


def whoami(request: HttpRequest) -> HttpResponse:
    """Return what this application knows about the client and how it came."""
    header = request.headers.get
    return JsonResponse(
        {
            "remote_addr": request.META.get("REMOTE_ADDR"),
            "forwarded_for": header("X-Forwarded-For"),
            "forwarded_proto": header("X-Forwarded-Proto"),
            "forwarded_host": header("X-Forwarded-Host"),
            "forwarded_port": header("X-Forwarded-Port"),
            "real_ip": header("X-Real-IP"),
            "request_id": header("X-Request-ID"),
            "host": header("Host"),
            "scheme": request.scheme,
            "is_secure": request.is_secure(),
            "release": RELEASE,
        }
    )


@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    """Read a body in pieces; with ?keep=1 keep it as a media file. Answer its size and digest."""
    digest, size = hashlib.sha256(), 0
    name = f"{uuid.uuid4().hex}.bin" if request.GET.get("keep") else ""
    with Path(settings.MEDIA_ROOT / name if name else os.devnull).open("wb") as target:
        while piece := request.read(PIECE):
            digest.update(piece)
            size += target.write(piece)
    answer = {"bytes": size, "sha256": digest.hexdigest(), "release": RELEASE}
    if name:
        answer["url"] = settings.MEDIA_URL + name
    return JsonResponse(answer)


async def download(request: HttpRequest) -> HttpResponse:
    """Stream ?mb= MiB (default 1) without knowing the length before."""
    pieces = int(float(request.GET.get("mb", "1")) * 1024 * 1024) // PIECE

    async def body() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"\0" * PIECE

    return StreamingHttpResponse(body(), content_type="application/octet-stream")


async def slow(request: HttpRequest) -> HttpResponse:
    """Answer after ?seconds= (default 2), as a slow report would."""
    seconds = float(request.GET.get("seconds", "2"))
    await asyncio.sleep(seconds)
    return JsonResponse({"slept": seconds, "release": RELEASE})


async def poll(request: HttpRequest) -> HttpResponse:
    """Answer when something happened, or with nothing after ?seconds= (default 25): a long poll."""
    stopping = await wait_for_shutdown(float(request.GET.get("seconds", "25")))
    return JsonResponse({"events": [], "release": RELEASE, "reconnect": stopping})


async def events(request: HttpRequest) -> HttpResponse:
    """Send one server-sent event a second; the stream ends when the server shuts down."""

    async def body() -> AsyncIterator[str]:
        number = 0
        stopping = False
        while not stopping:
            number += 1
            yield f"id: {number}\ndata: {json.dumps({'n': number, 'release': RELEASE})}\n\n"
            stopping = await wait_for_shutdown(1)

    return StreamingHttpResponse(
        body(), content_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


@require_POST
def login(request: HttpRequest) -> HttpResponse:
    """Refuse every password; here so that a limit of attempts has something to protect."""
    return JsonResponse({"error": "wrong password"}, status=401)


@require_POST
def tasks(request: HttpRequest) -> HttpResponse:
    """Enqueue ?count= tasks (default 1) of ?seconds= each (default 0)."""
    seconds = float(request.GET.get("seconds", "0"))
    count = int(request.GET.get("count", "1"))
    identifiers = [work.delay(seconds).id for _ in range(count)]
    return JsonResponse({"ids": identifiers}, status=202)


def orders(request: HttpRequest) -> HttpResponse:
    """Store an order (POST), or count them."""
    if request.method == "POST":
        Order.objects.create(article=request.GET.get("article", "tea"))
    return JsonResponse({"orders": Order.objects.count()})
