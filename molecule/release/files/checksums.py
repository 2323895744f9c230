"""Compare the files of a release folder with its manifest's checksums."""

import hashlib
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
expected = json.loads((folder / "manifest.json").read_text())["checksums"]
for name, digest in expected.items():
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
        sys.exit(f"{name} differs")
print(len(expected), "files")
