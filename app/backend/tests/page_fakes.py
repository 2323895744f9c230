"""Stand-ins, at the HTTP protocol, for endpoints that the page uses and tests cannot do without.

A research's stages, its end and its broken stream come when a test wants them.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

# Everything faked, and nothing else: a path that is taken out goes to the real backend.
FAKED = (
    r"/api/research/async",
    r"/api/task/fake-[a-z]+(/events)?",
    r"/rag/query",
    r"/chat",
    r"/itinerary",
)
BAD = "<img src=x onerror=\"document.title='broken into'\">"
REPORT = f"""# Palaces of Seoul

Five **grand palaces** stand; see [the city](https://example.org/seoul) and `code`.

- Gyeongbokgung
- Changdeokgung {BAD}

1. [do not](javascript:document.title='broken') click
> quoted

```
{BAD}
{"a-line-that-is-much-too-long-for-a-phone " * 5}
```
"""
SOURCES = [
    {"id": 1, "title": "Gyeongbokgung", "score": 0.91},
    {"id": 2, "title": BAD, "score": 0.5},
]


@dataclass
class Fakes:
    """What the fakes were asked, and what they wait for."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    go_on: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        self.asked.clear()
        self.go_on.clear()
        self.state = {"status": "progress", "stage": "searching", "percentage": 40}

    def finish(self) -> None:
        """Let the research succeed."""
        result = {"status": "ok", "report": REPORT, "session_id": "s", "query": "q"}
        self.state = {"status": "success", "result": result}
        self.go_on.set()

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body() or b"null")
        path = request.url.path
        self.asked.append((request.method, path, body))
        if path == "/api/research/async":
            # The question says how its task is to be told of.
            return JSONResponse({"task_id": f"fake-{body['query'].split()[0]}"}, 202)
        if path == "/rag/query":
            return JSONResponse(self.answered(body["query"]))
        if path == "/chat":
            return self.chatted(body)
        if path == "/itinerary":
            stop = {"id": 1, "title": "Gyeongbokgung", "why": f"You like {body['interests'][0]}."}
            days = [{"day": n + 1, "stops": [stop]} for n in range(body["days"])]
            return JSONResponse({"days": days, "note": "Wear good shoes."})
        return self.told(request)

    def answered(self, query: str) -> dict[str, Any]:
        seen = sum(body == {"query": query, "top_k": 3} for _, _, body in self.asked)
        return {
            "query": query,
            "answer": f"The **largest** is Gyeongbokgung. {BAD}",
            "sources": SOURCES,
            "variants": ["largest palace", "biggest palace"],
            "cached": seen > 1,
        }

    def chatted(self, body: dict[str, Any]) -> Response:
        if body["message"] == "fail":
            return JSONResponse({"detail": "The language model is not available."}, 503)
        reply = f"You said: {body['message']}"
        return JSONResponse({"session_id": "session-1", "reply": reply, "sources": SOURCES[:1]})

    def told(self, request: Request) -> Response:
        task_id = request.url.path.split("/")[3]
        if request.method == "DELETE":
            self.state = {"status": "revoked"}
            self.go_on.set()
        if not request.url.path.endswith("/events"):
            return JSONResponse({"task_id": task_id, **self.state})
        if task_id == "fake-absent":
            return JSONResponse({"detail": "Not Found"}, 404)
        return StreamingResponse(self.events(task_id), media_type="text/event-stream")

    async def events(self, task_id: str) -> AsyncIterator[str]:
        def event(**state: Any) -> str:
            return f"data: {json.dumps({'task_id': task_id, **state})}\n\n"

        yield event(status="pending")
        if task_id == "fake-cut":
            return
        yield event(**self.state)
        while not self.go_on.is_set():
            await asyncio.sleep(0.05)
        yield event(**self.state)


def is_faked(path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in FAKED)
