"""Ask one URL again and again for some seconds; print what came back as JSON.

python3 prober.py URL SECONDS  ->  {"requests": 1234, "failed": 0, "errors": {}}
"""

import collections
import json
import sys
import time
import urllib.request

url, seconds = sys.argv[1], float(sys.argv[2])
end = time.monotonic() + seconds
errors: collections.Counter[str] = collections.Counter()
requests = 0
while time.monotonic() < end:
    requests += 1
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
            response.read()
    except OSError as error:
        errors[str(error)] += 1
    time.sleep(0.02)
print(json.dumps({"requests": requests, "failed": sum(errors.values()), "errors": errors}))
