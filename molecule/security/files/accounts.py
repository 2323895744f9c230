"""Read /proc as every account of this host but root, and as its first one: JSON list of finds.

accounts.py SECRETS_FILE: a JSON object whose values must not be found.
"""

import json
import os
import pathlib
import pwd
import sys

secrets = [value.encode() for value in json.loads(pathlib.Path(sys.argv[1]).read_text()).values()]
accounts = {(entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall() if entry.pw_uid}
found = []
for uid, gid in sorted(accounts | {(1000, 1000)}):
    reads, writes = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        seen = b""
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                seen += path.read_bytes()
            except OSError:
                continue
        os.write(writes, str(sum(secret in seen for secret in secrets)).encode())
        os._exit(0)
    os.close(writes)
    os.wait()
    number = int(os.read(reads, 20) or b"-1")
    os.close(reads)
    if number:
        found.append({"uid": uid, "gid": gid, "secrets": number})
print(json.dumps({"accounts": len(accounts), "found": found}))
