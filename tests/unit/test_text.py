"""Text of others is printable, bounded and of the shape that code relies on."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils import text as text_module
from ansible_collections.crisper.stack.plugins.module_utils.process import capture
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import MARKER, parse
from ansible_collections.crisper.stack.plugins.module_utils.shapes import ANY, EACH, like
from ansible_collections.crisper.stack.plugins.module_utils.text import (
    WIDTH,
    clean,
    composed,
    is_visible,
    listed,
    printable,
    printable_lines,
    quote,
    quote_output,
    quoted_lines,
    sql_identifier,
)
from harmless_text import harmless, texts_of
from hostile_replies import NAMES, VALUES
from hypothesis import given, settings
from hypothesis import strategies as st

ANY_TEXT = st.text(st.characters(), max_size=300) | st.sampled_from(NAMES)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(ANY_TEXT, st.integers(40, 300))
def test_a_text_becomes_one_printable_line_of_bounded_length(text: str, width: int) -> None:
    shown = printable(text, width)
    assert harmless(shown)
    assert len(shown) <= width
    assert printable(shown, width) == shown, "and a second look changes nothing"
    shown.encode()  # no lone surrogate is left


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=WIDTH))
def test_what_is_printable_stays(text: str) -> None:
    if not text_module.INVISIBLE.search(text):
        assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("default@app1", "default@app1"),
        ("größe 한국어 🦫", "größe 한국어 🦫"),
        ("a\nRelease   x (proved)", r"a\nRelease   x (proved)"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("a\u200bb\u2060\ufeff", r"a\u200bb\u2060\ufeff"),
        ("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85"),
        ("\ud800", r"\ud800"),
        ("\u3164\U000e0041", r"\u3164\U000e0041"),
        (None, "None"),
        (1 << 16_609, "(a number of 16610 bits)"),
        (b"\xff\x1b", r"\xff\x1b"),
    ],
    ids=range(13),
)
def test_what_a_terminal_obeys_is_written_out(text: Any, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_of_8_mb_is_cut_and_says_so() -> None:
    shown = printable("\x1b" * 8_000_000)
    assert len(shown) <= WIDTH
    assert shown.endswith("… (8000000 characters)")


@given(JSON)
def test_plain_data_is_printable_and_json(value: Any) -> None:
    cleaned = clean(value)
    assert all(harmless(text) and len(text) <= WIDTH for text in texts_of(cleaned))
    json.dumps(cleaned, allow_nan=False)
    assert clean(cleaned) == cleaned


def test_plain_data_is_bounded() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(json.dumps(clean({"deep": deep}))) < 100
    assert len(clean(list(range(50_000)), items=10)) == 10
    assert len(clean(dict.fromkeys(map(str, range(50_000))), items=10)) == 10


def test_lines_of_others_cannot_pass_for_ours() -> None:
    log = "ok\r\nSUMMARY one\n\x1b[1AService   backend running"
    lines = quoted_lines(log).split("\n")
    assert lines == [r"| ok\r", "| SUMMARY one", r"| \x1b[1AService   backend running"]
    assert printable_lines("a\n\tb") == "a\n    b"


@given(st.text(max_size=100), st.text(max_size=100))
def test_no_line_of_somebody_elses_output_passes_for_ours(first: str, second: str) -> None:
    """Regression: what a service printed was in failures of backup and restore without a mark."""
    said = f"{first}\n{second}"
    lines = composed(f"It failed: {quote_output(said)}. Do that.").split("\n")
    assert all(harmless(line) for line in lines)
    own = [line for line in lines if not line.startswith("| ")]
    if len(lines) == 1:
        assert "\n" not in said.strip()
    else:
        assert own == ["It failed:", "Do that."], lines


def test_a_single_line_of_somebody_else_stays_in_its_sentence() -> None:
    assert composed(f"It failed: {quote_output(' no space left ')}. Do that.") == (
        "It failed: “no space left”. Do that."
    )
    assert quote_output(" \n ") == ""


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_foreign_line_is_quoted_and_leaves_no_gap(first: str, second: str) -> None:
    """Regression: what stood behind 100 spaces was a line of its own, and looked like ours."""
    said = f"{first}”{' ' * 100}OK: signature valid.{second}"
    for shown in (quote(said), quote_output(said.replace("\n", ""))):
        assert harmless(shown)
        assert shown[0] == "“"
        assert shown.index("”") == len(shown) - 1, "nothing in it closes the quotes"
        assert "  " not in shown
    assert " " * 5 not in printable(said)
    assert quote(" ") == ""


def test_an_indent_stays_where_a_line_stands_alone() -> None:
    assert quoted_lines(f"a\n\tb\n{' ' * 100}c{' ' * 100}d") == f"| a\n|     b\n| {' ' * 40}c    d"


def test_what_shows_as_nothing_is_written_out_everywhere() -> None:
    for one in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(one)[0] in "CZ" and one != " ":
            assert not is_visible(one)
    for one in "\u034f\u115f\u17b4\u180b\u180f\u3164\ufe00\ufe0f\uffa0\U000e0100\U0001d173":
        assert not is_visible(one)
    assert is_visible("größe 한국어 🦫 a b")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=63))
def test_a_name_is_one_identifier_of_sql_and_can_be_printed(name: str) -> None:
    """Regression: a remedy that was printed and pasted could run a second statement."""
    shown = sql_identifier(name)
    assert harmless(shown)
    plain, escaped = shown.startswith('"'), shown.startswith('U&"')
    assert plain or escaped
    inner = shown[1 if plain else 3 : -1]
    assert '"' not in inner.replace('""', "")
    read = inner.replace('""', '"')
    if escaped:
        read = re.sub(
            r"\\(?:\\|\+([0-9a-f]{6}))", lambda m: chr(int(m[1], 16)) if m[1] else "\\", read
        )
    assert read == name


def test_a_list_of_names_is_bounded() -> None:
    assert listed(["a", "b\n"]) == r"a, b\n"
    assert listed(map(str, range(100)), 2) == "0, 1 and 98 more"


SAMPLE = {
    "name": "",
    "count": 0,
    "ratio": 0.0,
    "flag": False,
    "seconds": None,
    "names": [""],
    "by_name": {EACH: {EACH: 0}},
    "any": ANY,
}


@given(JSON | st.fixed_dictionaries({key: JSON for key in SAMPLE}))
def test_whatever_comes_has_the_shape(value: Any) -> None:
    found = like(value, SAMPLE)
    assert set(found) == set(SAMPLE)
    for key in ("name", "count", "ratio", "flag", "names", "by_name"):
        assert type(found[key]) is type(SAMPLE[key])
    assert all(isinstance(name, str) for name in found["names"])
    assert all(isinstance(n, int) for names in found["by_name"].values() for n in names.values())
    assert like(found, SAMPLE) == found


def test_what_has_the_shape_stays() -> None:
    good = {"name": "a", "count": 2, "ratio": 1, "flag": True, "seconds": 0.5, "names": ["x"]}
    good |= {"by_name": {"q": {"t": 3}}, "any": [1]}
    assert like(good, SAMPLE) == good


@settings(max_examples=200)
@given(JSON | st.dictionaries(st.sampled_from(["problem", "error", "replies"]), JSON))
def test_an_answer_of_a_container_is_printable_or_none(value: Any) -> None:
    answer = parse("noise\n" + MARKER + json.dumps(value) + "\n")
    assert (answer is None) == (not isinstance(value, dict))
    assert all(harmless(text) and len(text) <= 500 for text in texts_of(answer))


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names_in_an_answer(name: str) -> None:
    answer = parse(MARKER + json.dumps({"replies": {"ping": [{name: VALUES[0]}]}}))
    assert all(harmless(text) and len(text) <= WIDTH for text in texts_of(answer))


def test_an_answer_that_is_nested_too_deeply_is_none() -> None:
    assert parse(MARKER + "[" * 200_000) is None
    assert parse(MARKER + '{"a":' * 200_000) is None


def test_a_command_is_fed_and_read() -> None:
    code = "import sys; data = sys.stdin.read(); print(len(data)); print('why', file=sys.stderr)"
    done = capture([sys.executable, "-c", code], "x" * 1_000_000, 20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1000000\n", "why\n")
    assert not done.cut


def test_a_container_that_prints_without_end_is_ended() -> None:
    code = "while True: print('x' * 100_000)"
    done = capture([sys.executable, "-c", code], "", 20, most=1_000_000)
    assert done.cut
    assert len(done.stdout) == 1_000_000
    assert done.returncode != 0
