"""Is an answer right? One function for whoever asks: the screening of problems, and the analysis of a run.

Knows no problem file and no transcript. What a model wrote is only searched, never believed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = re.compile(r"(?:(?<!\w)[-−])?\d+(?:,\d{3})*(?:\.\d+)?")  # a dash behind a word or a number is no sign


def right(text: str, accept: Sequence[str], number: float | None) -> bool:
    """The last number of `text` is `number`; or, if that is None, one of `accept` stands in it as whole words."""
    if number is not None:
        found = NUMBER.findall(text)
        return bool(found) and float(found[-1].replace(",", "").replace("−", "-")) == number
    return any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text, re.IGNORECASE) for one in accept)
