"""Wrong passwords as fast as they go: JSON of the statuses and of the last answer's headers."""

import http.client
import json
import ssl
import sys

name, certificates, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = ssl.create_default_context(cafile=certificates)
body = json.dumps({"username": "admin", "password": "guess"})
statuses = []
for _ in range(count):
    connection = http.client.HTTPSConnection(name, timeout=10, context=context)
    connection.request("POST", "/admin/login", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    statuses.append(answer.status)
    connection.close()
print(json.dumps({"statuses": statuses, "headers": {k.lower(): v for k, v in answer.getheaders()}}))
