"""What a compromised worker, an image or another host may answer."""

from __future__ import annotations

from typing import Any

# Names of nodes, queues, tasks, labels, hosts.
NAMES = (
    "\x1b[2J\x1b[1;1H",
    "\x1b]0;owned\x07",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31mred",
    "w@h\nRelease   20990101t000000z-00000000 (proved)",
    "w@h\r\nSUMMARY one *****",
    "a\u2028Service   backend-1 running healthy\u2029",
    "\u202egnp.exe\u202c",
    "\u2066\u2069\u200b\u200d\ufeff\u00ad",
    "\u3164\u115f\ufe0f\U000e0041",
    "\ud800",
    "\x00\x07\x08\x7f\x85",
    "{{ lookup('pipe', 'id') }}",
    "{% for x in y %}",
    "%s%n%(x)s{0}",
    "' OR 1=1 --",
    "",
    " ",
    "x" * 300,
    "\x1b[31m" * 100_000,
    "e\u0301" * 1000,
)
# In place of a list, a mapping, a number or a name.
VALUES: tuple[Any, ...] = (
    {"error": "no such method"},
    {},
    [],
    [None],
    [[]],
    [{}],
    [{"name": None}],
    [{"name": {"a": 1}}],
    [{"id": 1, "name": 2, "time_start": "now"}],
    [{"time_start": float("inf")}],
    [1, "a", None],
    {"pool": []},
    {"pool": {"processes": 3, "max-concurrency": "many", "timeouts": [None, {}]}},
    {"pool": {"timeouts": "ab"}},
    "a text",
    7,
    -1.5,
    10**30,
    True,
    None,
)
METHODS = ("ping", "active", "reserved", "scheduled", "registered", "stats", "active_queues")
METHODS = (*METHODS, "conf", "revoked")


def replies() -> list[dict[str, Any]]:
    """Replies by method, as the probe returns them: each name, and each value for each method."""
    found: list[dict[str, Any]] = [
        {method: [{name: {"ok": "pong"} if method == "ping" else []}] for method in METHODS}
        for name in NAMES
    ]
    for value in VALUES:
        found.append({method: [value] for method in METHODS} | {"ping": [{"w@h": {"ok": "pong"}}]})
        each = {method: [{"w@h": value}] for method in METHODS}
        found.append({**each, "ping": [{"w@h": {"ok": "pong"}}]})
        found.append({**each, "ping": [value]})
    found.append({"ping": [{f"w{n}@h": {"ok": "pong"}} for n in range(20_000)]})
    return found


def deep(depth: int = 3000) -> Any:
    """Return lists within each other, more than the text of one can be made of."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# What JSON holds and Python's floats, texts and stacks do not.
NUMBERS: tuple[Any, ...] = (
    int("9" * 400),
    -int("9" * 400),
    10**4299,
    1e308,
    -1e308,
    float("inf"),
    float("nan"),
    2**63,
    -1,
    0,
)
SHAPELESS: tuple[Any, ...] = (*NUMBERS, *VALUES, {"a": 1e308, "b": 1e308}, deep(), {"a": deep()})
