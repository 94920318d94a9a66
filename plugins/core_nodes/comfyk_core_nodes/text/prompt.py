"""The prompt syntax: `(words)` weighs words 1.1 times, `(words:1.3)` exactly 1.3, `\\(` and `\\)` are themselves.

Parentheses nest; an inner weight without a number multiplies the outer one, an inner number replaces it. Anything
else is text: nothing a user types is an error.
"""

from __future__ import annotations

import re

from comfyk import check_interrupted

EMPHASIS = 1.1

# Escaped parentheses while the others are looked for. Unicode sets these two apart for a program's own use.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_PARENTHESIS = re.compile(r"[()]")


def parse_weights(text: str) -> list[tuple[str, float]]:
    """The parts of a prompt, in order, each with its weight. Joined, they are the prompt without its syntax."""
    text = text.replace("\\)", _CLOSE).replace("\\(", _OPEN)
    parts: list[tuple[str, float]] = []
    # A stack in place of recursion, so that no number of parentheses is too many.
    todo = [(text, 1.0, False)]
    while todo:
        text, weight, finished = todo.pop()
        if finished:
            parts.append((text, weight))
            continue
        check_interrupted()  # each level is read anew: thousands of them take seconds
        for item in reversed(_split(text)):
            if len(item) >= 2 and item[0] == "(" and item[-1] == ")":
                todo.append((*_unwrap(item[1:-1], weight), False))
            else:
                todo.append((item, weight, True))
    return [(part.replace(_CLOSE, ")").replace(_OPEN, "("), weight) for part, weight in parts]


def _unwrap(text: str, weight: float) -> tuple[str, float]:
    """The text of a group without its weight, and the weight: `a cat:1.2`."""
    colon = text.rfind(":")
    if colon > 0:
        try:
            return text[:colon], float(text[colon + 1 :])
        except ValueError:
            pass
    return text, weight * EMPHASIS


def _split(text: str) -> list[str]:
    """Cut at the outermost groups, which keep their parentheses.

    A closing parenthesis that closes nothing counts below zero, so that the group after it is text; a group that
    is never closed is one item up to the end.
    """
    items: list[str] = []
    depth = start = 0
    for match in _PARENTHESIS.finditer(text):
        at = match.start()
        if text[at] == "(":
            if depth == 0 and at > start:
                items.append(text[start:at])
                start = at
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                items.append(text[start : at + 1])
                start = at + 1
    if start < len(text):
        items.append(text[start:])
    return items
