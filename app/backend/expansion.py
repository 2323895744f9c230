"""One question as several: what is asked in other words, or in the other language, is found too."""

from __future__ import annotations

import re
import unicodedata

from backend.glossary import GLOSSARY, PARTICLES, STOP_WORDS, Meaning

LARGEST = 4  # variants
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
HANGUL = re.compile(r"[가-힣]")


def normalise(query: str) -> str:
    """The query as it is compared and cached: NFKC, no upper case, single spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", query).casefold())
    return " ".join(folded.split())


def is_korean(text: str) -> bool:
    """Whether there is any Hangul in it."""
    return HANGUL.search(text) is not None


def keywords(query: str) -> list[str]:
    """Its words in order, without stop words, and Korean ones without their particles."""
    bare = (_bare(word) for word in WORD.findall(normalise(query)) if word not in STOP_WORDS)
    return list(dict.fromkeys(word for word in bare if word not in STOP_WORDS))


def meanings(query: str) -> list[Meaning]:
    """What of the glossary the query speaks of, in the glossary's order."""
    text = normalise(query)
    words = set(keywords(query))
    return [meaning for meaning in GLOSSARY if _speaks_of(meaning, text, words)]


def terms(query: str) -> list[str]:
    """Every word that a good answer may contain: keywords, and their synonyms in both languages."""
    known = (term for meaning in meanings(query) for term in (*meaning.korean, *meaning.english))
    # One syllable stands in too many other words to say anything.
    return [t for t in dict.fromkeys((*keywords(query), *known)) if len(t) > 1]


def expand(query: str) -> list[str]:
    """1 to LARGEST distinct variants of a query that is not blank, itself (normalised) first.

    Then its keywords, what they are called in the other language, and their synonyms in both.

    Raises:
        ValueError: The query is blank.
    """
    normalised = normalise(query)
    if not normalised:
        raise ValueError("a blank query has no variants")
    spoken_of = meanings(query)
    translated = [_translation(meaning, normalised) for meaning in spoken_of]
    synonyms = [term for meaning in spoken_of for term in (*meaning.english, *meaning.korean)]
    variants = (normalised, *map(" ".join, (keywords(query), translated, synonyms)))
    return list(dict.fromkeys(variant for variant in variants if variant))[:LARGEST]


def _bare(word: str) -> str:
    """A Korean word without its particle, as long as two syllables of it remain."""
    if not is_korean(word):
        return word
    for particle in PARTICLES:
        if word.endswith(particle) and len(word) - len(particle) >= 2:
            return word.removesuffix(particle)
    return word


def _speaks_of(meaning: Meaning, text: str, words: set[str]) -> bool:
    # Korean words run together ("서울고궁"): any two syllables count; one syllable is a whole word.
    korean = any(t in text if len(t) > 1 else t in words for t in meaning.korean)
    return korean or any(_is_in(term, text) for term in meaning.english)


def _is_in(term: str, text: str) -> bool:
    """An English term as a whole word, in singular or plural."""
    return re.search(rf"(?<![a-z]){re.escape(term)}(?:s|es)?(?![a-z])", text) is not None


def _translation(meaning: Meaning, text: str) -> str:
    english = any(_is_in(term, text) for term in meaning.english)
    return meaning.korean[0] if english else meaning.english[0]
