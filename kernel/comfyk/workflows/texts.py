"""What the web UI does with texts before it sends them: choices and comments in prompts, names in file names."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r]*", re.DOTALL)
_ESCAPED = re.compile(r"\\([{}|])")
_PLACE = re.compile(r"%([^%]+)%")
_DATE_PART = re.compile(r"yyyy|yy|MM?|dd?|hh?|mm?|ss?")


def choose(text: str, choice: Callable[[list[str]], str] = random.choice) -> str:
    """The text without comments (`// ...`, `/* ... */`), and with one of each `{a|b|c}`; `\\{` is a brace.

    Choices may hold choices.
    """
    text = _COMMENT.sub("", text)
    if "{" in text:
        # One list of options for each brace that is open; the first is the text itself.
        open_: list[list[str]] = [[""]]
        position = 0
        while position < len(text):
            char = text[position]
            if char == "\\" and position + 1 < len(text):
                char = text[position : position + 2]
            position += len(char)
            if char == "{":
                open_.append([""])
            elif char == "}" and len(open_) > 1:
                open_[-2][-1] += choice(open_.pop())
            elif char == "|" and len(open_) > 1:
                open_[-1].append("")
            else:
                open_[-1][-1] += char
        while len(open_) > 1:  # a brace that is never closed ends with the text
            open_[-2][-1] += choice(open_.pop())
        text = open_[0][0]
    return _ESCAPED.sub(r"\1", text)


def fill_in(text: str, value_of: Callable[[str, str], object | None], now: datetime) -> str:
    """A file name with `%date:yyyy-MM-dd%` and `%Node.widget%` filled in.

    `value_of(node, widget)` gives the value or None; what it does not know stays, as what the server fills in does.
    """

    def place(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("date:"):
            return _DATE_PART.sub(lambda part: _date_part(part[0], now), name.removeprefix("date:"))
        node, dot, widget = name.partition(".")
        value = value_of(node, widget) if dot else None
        return match[0] if value is None else re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", str(value))

    return _PLACE.sub(place, text)


def _date_part(part: str, now: datetime) -> str:
    if part[0] == "y":
        return f"{now.year:04}"[-len(part) :]
    number = {"M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}[part[0]]
    return f"{number:0{len(part)}}"
