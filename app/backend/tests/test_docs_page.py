"""The page that shows the API, and that everything of it is this server's own."""

from __future__ import annotations

import base64
import hashlib
import re

from appstack import Stack
from backend.api import docs
from fastapi import FastAPI
from fastapi.testclient import TestClient

# Of swagger-ui-dist 5.35.0.
VENDORED = {
    "swagger-ui-bundle.js": (
        "text/javascript",
        "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    ),
    "swagger-ui.css": (
        "text/css",
        "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    ),
}


def test_only_the_scripts_of_the_page_may_run():
    app = FastAPI(title="x", docs_url=None)
    app.include_router(docs.router)
    answer = TestClient(app).get("/docs")
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    (inline,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert "http" not in answer.headers["content-security-policy"]
    # Before, the page took Swagger UI from a content delivery network.
    taken = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert taken == ["/docs/swagger-ui.css", "data:,", "/docs/swagger-ui-bundle.js"]


def test_swagger_ui_is_the_pinned_one_with_its_licence():
    app = FastAPI()
    app.include_router(docs.router)
    with TestClient(app) as client:
        for name, (kind, digest) in VENDORED.items():
            answer = client.get(f"/docs/{name}")
            assert answer.headers["content-type"].startswith(kind)
            assert hashlib.sha256(answer.content).hexdigest() == digest, name
    for name in ("LICENSE", "NOTICE", "README.md", "swagger-ui-bundle.js.LICENSE.txt"):
        assert (docs.FILES / name).stat().st_size > 0


def test_nothing_of_it_is_there_unless_it_is_asked_for(stack: Stack) -> None:
    web = stack.web(API_DOCS="false")
    try:
        with web.client() as client:
            for path in ("/docs", "/redoc", "/openapi.json", "/docs/swagger-ui.css"):
                assert client.get(path).status_code == 404, path
    finally:
        web.kill()
