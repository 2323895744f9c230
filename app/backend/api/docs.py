"""The page that shows the API and tries it out, with a policy under which its own scripts run."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

router = APIRouter()
# Where FastAPI's page takes Swagger UI and its icon from; Swagger UI sets styles of its own.
POLICY = (
    "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; img-src data: https://fastapi.tiangolo.com;"
    " style-src 'unsafe-inline' https://cdn.jsdelivr.net;"
    " script-src {hashes} https://cdn.jsdelivr.net"
)


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """Swagger UI; its inline script is allowed by its hash, and no other."""
    app = request.app
    page = get_swagger_ui_html(openapi_url=app.openapi_url, title=app.title)
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    page.headers["Content-Security-Policy"] = POLICY.format(hashes=hashes)
    return page
