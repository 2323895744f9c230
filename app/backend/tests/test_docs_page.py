"""The page that shows the API."""

from __future__ import annotations

import base64
import hashlib
import re

from backend.api import docs
from fastapi import FastAPI
from fastapi.testclient import TestClient


def test_only_the_scripts_of_the_page_may_run():
    app = FastAPI(title="x", docs_url=None)
    app.include_router(docs.router)
    answer = TestClient(app).get("/docs")
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    (inline,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}' https://cdn.jsdelivr.net"
    assert policy["default-src"] == "'none'"
    taken = re.findall(r'(?:src|href)="(https://[^/"]+)', answer.text)
    assert taken
    assert all(host in answer.headers["content-security-policy"] for host in taken)
