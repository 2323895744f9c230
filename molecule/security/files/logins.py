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


def guess(number: int) -> tuple[int, dict[str, str]]:
    """Status and headers of one login; every other path ends in a slash, as Django's does."""
    connection = http.client.HTTPSConnection(name, timeout=60, context=context)
    path = "/admin/login" + "/" * (number % 2)
    # Whom the client says that it is must not matter.
    headers = {"Content-Type": "application/json", "X-Forwarded-For": f"203.0.113.{number}"}
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}


with ThreadPoolExecutor(max_workers=count) as pool:
    answers = list(pool.map(guess, range(count)))
refused = next((headers for status, headers in answers if status == 429), {})
print(json.dumps({"statuses": Counter(status for status, _ in answers), "headers": refused}))
