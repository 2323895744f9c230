"""Text to vectors, by the model that ships in WordLlama's own wheel: no download, no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import wordllama
from wordllama import WordLlama

DIMENSIONS = 256


@lru_cache
def _model() -> WordLlama:
    """Loaded at first use and once per process: the web process never needs it."""
    folder = Path(wordllama.__file__).parent
    return WordLlama.load(cache_dir=folder, disable_download=True)


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of `texts`: one of DIMENSIONS floats each, of length 1."""
    return _model().embed(list(texts), norm=True).tolist()
