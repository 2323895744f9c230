"""What one anonymous visitor may do, as JSON: NAME CERTIFICATES RESEARCHES STREAMS.

    {"research": {status: count}, "retry_after": [...], "streams": {status: count},
     "cookie": "guest=...", "own": status, "others": [status, status], "docs": [status, status]}

`others` is what another visitor gets for the first one's task and its events. Numbers of statuses
are of this address alone: app/backend/tests/test_limits.py looks from several.
"""

import http.client
import json
import ssl
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

name, certificates = sys.argv[1:3]
researches, streams = int(sys.argv[3]), int(sys.argv[4])
context = ssl.create_default_context(cafile=certificates)
body = json.dumps({"query": "palaces"})


def ask(method: str, path: str, sent: str = "", **headers: str) -> http.client.HTTPResponse:
    """The answer to one request, of which nothing was read; its connection stays open."""
    connection = http.client.HTTPSConnection(name, timeout=60, context=context)
    connection.request(method, path, sent, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    answer.connection = connection  # type: ignore[attr-defined]
    return answer


def start(_: int) -> tuple[int, str, dict[str, str]]:
    """Status, cookie and answer of one research, which a stranger starts."""
    answer = ask("POST", "/api/research/async", body)
    kept = answer.getheader("Set-Cookie") or ""
    told = answer.read().decode()
    found = json.loads(told) if answer.status == 202 else {}
    return answer.status, kept, found | {"retry_after": answer.getheader("Retry-After") or ""}


_, cookie, mine = start(0)
task = f"/api/task/{mine['task_id']}"
found = {
    "cookie": cookie,
    "own": ask("GET", task, Cookie=cookie.partition(";")[0]).status,
    "others": [ask("GET", path).status for path in (task, f"{task}/events")],
    "docs": [ask("GET", path).status for path in ("/docs", "/openapi.json")],
}
with ThreadPoolExecutor(max_workers=8) as pool:
    started = list(pool.map(start, range(researches)))
found["research"] = Counter(status for status, _, _ in started)
found["retry_after"] = sorted({told["retry_after"] for _, _, told in started} - {""})
opened = [ask("GET", f"/api/task/stream-{n}/events") for n in range(streams)]
found["streams"] = Counter(answer.status for answer in opened)
print(json.dumps(found))
