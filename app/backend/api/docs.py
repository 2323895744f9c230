"""The page that shows the API and tries it out, with a policy under which its own scripts run.

Only with API_DOCS=true. Everything comes from this server: Swagger UI lies in `static/swagger-ui`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

router = APIRouter()
FILES = Path(__file__).parents[1] / "static/swagger-ui"
SCRIPT, STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
# Swagger UI sets styles of its own.
POLICY = (
    "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline';"
    " script-src 'self' {hashes}"
)


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """Swagger UI; its inline script is allowed by its hash, and no other."""
    app = request.app
    page = get_swagger_ui_html(
        openapi_url=app.openapi_url,
        title=app.title,
        swagger_js_url=f"/docs/{SCRIPT}",
        swagger_css_url=f"/docs/{STYLE}",
        swagger_favicon_url="data:,",
    )
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    page.headers["Content-Security-Policy"] = POLICY.format(hashes=hashes)
    return page


@router.get(f"/docs/{SCRIPT}", include_in_schema=False)
def script() -> FileResponse:
    """Swagger UI itself."""
    return FileResponse(FILES / SCRIPT, media_type="text/javascript")


@router.get(f"/docs/{STYLE}", include_in_schema=False)
def style() -> FileResponse:
    """How it looks."""
    return FileResponse(FILES / STYLE, media_type="text/css")
