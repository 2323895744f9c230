"""A guard for Celery workers in containers: proof of life, an end in time, and a lease.

    python <folder with this package> -A project worker ...

is ``celery -A project worker ...`` with the guard. The application neither imports nor needs this
package. Python 3.8 or newer, and Celery 5.3 or newer, both of the application's image.
"""

from __future__ import annotations

from typing import Any


def install(app: Any, **_settings: Any) -> Any:
    """Return `app`: images made for earlier editions call this, and the guard is there already."""
    return app
