"""Text to vectors, by the model that ships in WordLlama's own wheel: no download, no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import wordllama
from wordllama import WordLlama

DIMENSIONS = 256
_loading = Lock()  # threads that ask at once load one model


@lru_cache
def _model() -> WordLlama:
    """Loaded at first use and once per process: the web process with its first question."""
    folder = Path(wordllama.__file__).parent
    return WordLlama.load(cache_dir=folder, disable_download=True)


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of `texts`: one of DIMENSIONS floats each, of length 1."""
    with _loading:
        model = _model()
    return model.embed(list(texts), norm=True).tolist()
