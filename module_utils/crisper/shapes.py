"""Bring what somebody else answered into the shape that code and templates rely on.

``{"error": …}`` in place of a list, a number in place of a name, a mapping without a key: none of
that may end a module or a template half-way. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ANY = object()  # in a sample: whatever it is
EACH = "*"  # the only key of a sample: a mapping of any keys to values of that shape


def like(value: Any, sample: Any) -> Any:
    """Return the value where it has the shape of the sample, and the sample's own where not.

    Args:
        value: plain data.
        sample: a text, number or truth value (the default; its type is what counts; a number that
            is a float takes whole numbers too), a list with the sample of its elements, a mapping
            with `EACH` and the sample of its values, or a record: a mapping of keys to samples.
            ``None`` takes a number or nothing, `ANY` takes everything.

    Returns:
        Data of that shape. Elements and values that do not fit are left out; records are whole.
    """
    if sample is ANY:
        return value
    if sample is None:
        return value if _is_number(value) else None
    if isinstance(sample, list):
        items = value if isinstance(value, list) else []
        return (
            [like(item, sample[0]) for item in items if matches(item, sample[0])] if sample else []
        )
    if isinstance(sample, Mapping):
        found = value if isinstance(value, Mapping) else {}
        if set(sample) == {EACH}:
            each = sample[EACH]
            return {
                str(key): like(item, each) for key, item in found.items() if matches(item, each)
            }
        return {key: like(found.get(key), part) for key, part in sample.items()}
    if not matches(value, sample):
        return sample
    return float(value) if isinstance(sample, float) else value


def matches(value: Any, sample: Any) -> bool:
    """Return whether the value is of the sample's kind; what is in it is not looked at."""
    if sample is ANY or sample is None:
        return True
    if isinstance(sample, bool):
        return isinstance(value, bool)
    if isinstance(sample, float):
        return _is_number(value)
    if isinstance(sample, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(sample, Mapping):
        return isinstance(value, Mapping)
    return isinstance(value, type(sample))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False
