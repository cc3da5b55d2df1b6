"""What the value of one key may be: in words, for messages, and as a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value may be: the words for an error message and the test."""

    allowed: str
    accepts: Callable[[Any], bool]


def key(rule: Rule) -> Any:
    return field(metadata={"rule": rule})


def at_least(low: float) -> Any:
    return key(Rule(f"a number of at least {low}", lambda value: value >= low))


def between(low: float, high: float) -> Any:
    return key(Rule(f"a number from {low} to {high}", lambda value: low <= value <= high))


def above(low: float, high: float = float("inf")) -> Any:
    allowed = f"a number above {low}" + ("" if high == float("inf") else f" and at most {high}")
    return key(Rule(allowed, lambda value: low < value <= high))


def one_of(*names: str) -> Any:
    return key(Rule("one of " + ", ".join(names), lambda value: value in names))


def some_of(*names: str) -> Any:
    allowed = "a list, without repeats, of " + ", ".join(names)
    return key(Rule(allowed, lambda value: value and len(set(value)) == len(value) and set(value) <= set(names)))


def rates_of(*names: str, low: float, high: float) -> Any:
    """A mapping from some of the names to numbers from low to high; may be empty."""
    allowed = f"a mapping to numbers from {low} to {high} of " + ", ".join(names)
    return key(Rule(allowed, lambda value: all(k in names and low <= v <= high for k, v in value.items())))


def anything() -> Any:
    return key(Rule("text", lambda value: True))
