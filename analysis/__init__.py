"""Transcripts in; tidy frames, statistics, figures and reports out.

Knows no engine and no model: of the other packages it imports agents.transcript alone.
"""

from analysis.frames import Frames, load

__all__ = ["Frames", "load"]
