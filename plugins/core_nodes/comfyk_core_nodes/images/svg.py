"""SVG pictures: text, with the workflow in an element of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Quotes may hold a ">". The possessive repeats never go back, so a broken file costs no more than its length.
_ROOT = re.compile(r"""<svg\b(?:[^<>"']++|"[^"]*+"|'[^']*+')*+>""")


def with_metadata(svg: str, metadata: Mapping[str, Any]) -> str:
    """Put `metadata` as JSON into an element `<metadata>`, the first in the picture.

    Text without an `<svg>` element that has content comes back as it is.
    """
    root = _ROOT.search(svg)
    if not metadata or root is None or root[0].endswith("/>"):
        return svg
    # Only strings have a ">" in JSON, where it may be written as an escape: the section is not ended by it.
    text = json.dumps(metadata, indent=2).replace("]]>", "]]\\u003e")
    return f"{svg[: root.end()]}\n  <metadata><![CDATA[\n{text}\n]]></metadata>{svg[root.end() :]}"
