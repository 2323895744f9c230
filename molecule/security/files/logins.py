"""Wrong passwords, all at once: JSON of how often each status came, and a 429's headers."""

import http.client
import json
import ssl
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

name, certificates, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = ssl.create_default_context(cafile=certificates)
body = json.dumps({"username": "admin", "password": "guess"})


def guess(_: int) -> tuple[int, dict[str, str]]:
    """Status and headers of one login."""
    connection = http.client.HTTPSConnection(name, timeout=60, context=context)
    connection.request("POST", "/admin/login", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}


with ThreadPoolExecutor(max_workers=count) as pool:
    answers = list(pool.map(guess, range(count)))
refused = next((headers for status, headers in answers if status == 429), {})
print(json.dumps({"statuses": Counter(status for status, _ in answers), "headers": refused}))
