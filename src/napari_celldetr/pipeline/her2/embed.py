"""A report's content within a page that nothing in it can end, and the page's own seal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

SCRIPT_ID = "celldetr-report"
SCRIPT = re.compile(rf'<script type="application/json" id="{SCRIPT_ID}">(.*?)</script>', re.DOTALL)
PAGE_SEAL = re.compile(r"<!-- sha256 of the page above: ([0-9a-f]{64}) -->\s*\Z")


def embedded(content: Mapping[str, Any]) -> str:
    """The content as a script element of a page that nothing in it can end."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{SCRIPT_ID}">{text}</script>'


def sealed_page(page: str) -> str:
    """`page` with its own sha256 in a last line."""
    body = page if page.endswith("\n") else page + "\n"
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"{body}<!-- sha256 of the page above: {digest} -->\n"
