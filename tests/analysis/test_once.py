"""What is made once for the same frames is made again for others, and nobody's change reaches the next reader."""

from __future__ import annotations

import pandas as pd

from analysis.once import once


def test_once_for_the_same_frames_and_again_for_a_part_of_them(frames):
    made = []

    @once
    def measure(of):
        made.append(of)
        return pd.DataFrame({"n": [len(of.rollouts)]})

    first = measure(frames)
    first["n"] = -1
    first.loc[0, "more"] = 1
    assert measure(frames)["n"].tolist() == [len(frames.rollouts)] and list(measure(frames)) == ["n"]
    cut = frames.where(condition="research")
    assert measure(cut)["n"].tolist() == [len(cut.rollouts)] and len(made) == 2
