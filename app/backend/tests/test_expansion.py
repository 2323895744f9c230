"""Expansion, fusion and extracts: pure functions, whatever somebody types."""

from __future__ import annotations

from itertools import permutations

import pytest
from backend.expansion import LARGEST, expand, is_korean, keywords, normalise
from backend.extract import CLOSEST, LONGEST, NOTHING, answer
from backend.glossary import GLOSSARY
from backend.passages import Passage, fuse
from hypothesis import assume, given
from hypothesis import strategies as st

KNOWN = [term for meaning in GLOSSARY for term in (*meaning.korean, *meaning.english)]
SAID = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from([*KNOWN, "the", "where", "어디", "에서", "!"]), max_size=8).map(
        " ".join
    ),
)


@given(SAID)
def test_one_to_four_distinct_variants_the_query_itself_first(query: str) -> None:
    assume(normalise(query))
    variants = expand(query)
    assert variants == expand(query)
    assert variants[0] == normalise(query)
    assert 1 <= len(variants) == len(set(variants)) <= LARGEST
    assert all(variant.strip() for variant in variants)


@pytest.mark.parametrize("blank", ["", " ", "\n\t\u3000"])
def test_a_blank_query_has_no_variants(blank: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        expand(blank)


@given(st.text(max_size=100), st.sampled_from(["  ", "\n", "\u3000"]))
def test_spaces_and_case_make_no_other_query(query: str, space: str) -> None:
    assert normalise(f"{space}{query} {space}") == normalise(query)
    assert normalise(f"A{space}B") == normalise("a b")


def test_a_query_is_asked_in_the_other_language_too() -> None:
    variants = expand("서울에서 가볼 만한 궁궐은 어디인가요?")
    assert variants[1] == "서울 궁궐"
    assert variants[2] == "palace seoul"
    assert "royal palace" in variants[3]
    assert expand("Where are the beaches of Busan?")[1:3] == ["beaches busan", "해변 부산"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("The best markets in Seoul", ["markets", "seoul"]),
        ("제주도에서는 무엇을", ["제주도"]),
        ("절이 있는 산", ["절이", "산"]),  # one syllable is not told from its particle
        ("where is the", []),
    ],
)
def test_keywords(query: str, words: list[str]) -> None:
    assert keywords(query) == words


def test_every_term_of_the_glossary_is_normalised_and_found() -> None:
    for meaning in GLOSSARY:
        assert all(is_korean(term) for term in meaning.korean)
        assert not any(is_korean(term) for term in meaning.english)
        for term in (*meaning.korean, *meaning.english):
            assert normalise(term) == term
            assert set(meaning.english + meaning.korean) & set(expand(term))


def hit(number: int) -> dict:
    return {"id": number, "title": f"t{number}", "content": f"c{number}.", "score": 0.5}


RANKING = st.lists(st.integers(1, 30), unique=True, max_size=10).map(
    lambda numbers: [hit(number) for number in numbers]
)


@given(st.lists(RANKING, min_size=1, max_size=4))
def test_fusion_keeps_all_once_and_knows_no_order_of_rankings(rankings: list[list[dict]]) -> None:
    fused = fuse(rankings)
    ids = [passage.id for passage in fused]
    assert sorted(ids) == sorted({found["id"] for ranking in rankings for found in ranking})
    scores = [passage.score for passage in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    for other in permutations(rankings):
        assert {p.id: round(p.score, 9) for p in fuse(other)} == {
            p.id: round(p.score, 9) for p in fused
        }


def test_what_several_rankings_name_wins() -> None:
    fused = fuse([[hit(1), hit(2)], [hit(3), hit(2)]])
    assert [passage.id for passage in fused] == [2, 1, 3]
    assert fuse([[hit(7)], [hit(7)]])[0].score == 1
    assert fuse([[]]) == fuse([]) == []


PALACE = Passage(1, "Palace · 궁", "A royal palace of Seoul. It has a pond.\n서울의 궁궐입니다.", 1)
MARKET = Passage(2, "Market · 시장", "A market with food.\n먹거리가 많은 시장입니다.", 0.9)


def test_an_answer_is_what_the_passages_say_in_the_language_of_the_query() -> None:
    assert answer("royal palaces", [PALACE, MARKET]) == "Palace · 궁: A royal palace of Seoul."
    assert answer("궁궐 어디", [PALACE, MARKET]) == "Palace · 궁: 서울의 궁궐입니다."
    assert answer("pond", [PALACE]) == "Palace · 궁: It has a pond."


def test_an_answer_says_that_nothing_matches() -> None:
    assert answer("helicopter", [MARKET]).startswith(CLOSEST[False])
    assert answer("헬리콥터", [MARKET]).startswith(CLOSEST[True])
    assert (answer("x", []), answer("무엇", [])) == (NOTHING[False], NOTHING[True])


@given(SAID, st.lists(st.tuples(st.text(max_size=50), st.text(max_size=2000)), max_size=5))
def test_an_answer_is_short_whatever_was_stored(query: str, stored: list[tuple]) -> None:
    passages = [Passage(n, title, content, 0.1) for n, (title, content) in enumerate(stored)]
    assert 0 < len(answer(query, passages)) <= 3 * (LONGEST + 60) + 100
