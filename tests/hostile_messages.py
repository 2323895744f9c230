"""Messages that may lie in a queue, among them those that try to look like another task."""

from __future__ import annotations

import json

from ansible_collections.crisper.stack.plugins.module_utils.celery.skew import Tally, task_name
from backlog import message
from hypothesis import strategies as st

HOSTILE = ['"task": "evil"', '{"lang": "py", "task": "evil"', '", "task": "evil', "\\", "é", "\x1f"]
TEXTS = st.text(max_size=8) | st.sampled_from(HOSTILE)
NAMES = st.sampled_from(["app.one", "app.two", "größe", 'quo"te', "back\\slash", ""]) | st.text(
    max_size=8
)


def first_protocol(name, text):
    """A message of Celery 3, whose headers are empty or are the client's own."""
    body = json.dumps({"task": name, "args": [text]})
    return {
        "body": body,
        "headers": {"x": {"lang": "py", "task": "evil", "text": text}},
        "content-type": "application/json",
        "properties": {},
    }


def as_json(value, separators, ascii_only):
    return json.dumps(value, separators=separators, ensure_ascii=ascii_only).encode()


RAWS = st.builds(
    as_json,
    st.one_of(
        st.builds(message, NAMES, TEXTS, TEXTS),
        st.builds(lambda name, text: message(name, "one", **{text: {"task": "x"}}), NAMES, TEXTS),
        st.builds(first_protocol, NAMES, TEXTS),
        # Other orders: headers before the body, the name not where Celery writes it.
        st.builds(lambda name: dict(sorted(message(name).items(), reverse=True)), NAMES),
        st.builds(
            lambda name: {**message(name), "headers": {"id": "1", "lang": "py", "task": name}},
            NAMES,
        ),
        st.builds(lambda text: {"body": text, "headers": {"lang": "py"}}, TEXTS),
    ),
    st.sampled_from([(", ", ": "), (",", ":")]),
    st.booleans(),
)


def naive(raws):
    """What parsing each message as JSON says."""
    tally = Tally()
    for raw in raws:
        name = task_name(json.loads(raw))
        if name is None:
            tally.unreadable["one"] += 1
        else:
            tally.count("one", name, 1)
    return tally.reading()
