"""What `selfsteer claims` found of the rollouts in a folder, as tables of its report.

Knows no claim: it reads FOLDER/claims/NAME/claims.json.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from analysis.claims.verdict import VERDICTS
from analysis.words import Table
from toolkit.errors import BadInput

COLUMNS = ("claims of", *VERDICTS, "not as the file expects")


def kept(folder: str | Path) -> list[Table]:
    """One row per file of claims that was recomputed on these data; no table where none was. Raises BadInput for a
    claims.json that is none."""
    rows = []
    for path in sorted(Path(folder).glob("claims/*/claims.json")):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))["results"]
            there = [r for r in results if not r["absent"]]
            counts = Counter(str(r["verdict"]) for r in there)
            changed = sum(bool(r["changed"]) for r in there)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is no result of `selfsteer claims` ({error}); run it again") from error
        rows.append((path.parent.name, *(str(counts[v]) for v in VERDICTS), str(changed)))
    note = (
        "Definitions recomputed by `selfsteer claims` on these data, by verdict; each with its interval in claims.md."
    )
    return [Table("Published claims, recomputed", COLUMNS, tuple(rows), note)] if rows else []
