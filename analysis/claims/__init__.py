"""Claims of published studies as queries: the number as published, beside the same number recomputed from transcripts.

Knows no study; each has its file here, NAME.yaml, in the form of file.py.
"""

from analysis.claims.file import Claim, Definition, Study, read
from analysis.claims.recompute import Result, recompute
from analysis.claims.verdict import Verdict

__all__ = ["Claim", "Definition", "Result", "Study", "Verdict", "read", "recompute"]
