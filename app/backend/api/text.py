"""Text that people send: bounded, not blank, and without NUL, which PostgreSQL stores not."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from backend.expansion import normalise


def _not_blank(text: str) -> str:
    if not normalise(text):
        raise ValueError("must not be blank")
    return text


Said = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$"), AfterValidator(_not_blank)]
