"""Tables that several metrics need are made once for the same frames, and kept as long as these frames are.

Knows no metric.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import pandas as pd

from analysis.frames import Frames

Measure = Callable[[Frames], pd.DataFrame]


def once(measure: Measure) -> Measure:
    """`measure`, a function of frames alone, carried out once for each Frames; whoever asks gets a copy of its own."""

    @wraps(measure)
    def kept(frames: Frames) -> pd.DataFrame:
        known = vars(frames).setdefault("_once", {})  # beside the fields, as functools.cached_property keeps its values
        if measure not in known:
            known[measure] = measure(frames)
        return known[measure].copy(deep=False)  # type: ignore[no-any-return]

    return kept
