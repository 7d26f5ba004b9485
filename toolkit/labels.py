"""Labels of features: what each is called, whether that can be trusted, and the label files that people publish.

Knows no SAE and no engine.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.errors import BadInput
from toolkit.randomness import stream

if TYPE_CHECKING:
    from toolkit.dictionary import Hit
    from toolkit.search import LabelIndex

Status = Literal["real", "filtered", "missing"]
DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
_FILTERED = re.compile(r"\s*[\[(]?filtered", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\s*(?:none|null|nan|n/?a|placeholder.*|unlabel+ed.*|no label|unknown|-+|(?:feature|latent)?[ _#-]*\d+)?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Labels:
    """Labels of F features. Build with `Labels.of`.

    meanings: what SEARCH matches, "" where there is nothing to match. shown: what the model and the user see.
    A view may show other texts than it matches.
    """

    shown: tuple[str, ...]
    statuses: tuple[Status, ...]
    meanings: tuple[str, ...]
    embedder: str = DEFAULT_EMBEDDER
    _index: list[LabelIndex] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(
        cls, labels: Mapping[int, str] | Sequence[str], size: int | None = None, embedder: str = DEFAULT_EMBEDDER
    ) -> Labels:
        """Labels from texts by feature; features without one are `missing`.

        Raises BadInput for a feature outside `size`.
        """
        given = labels if isinstance(labels, Mapping) else dict(enumerate(labels))
        count = max(given, default=-1) + 1 if size is None else size
        for feature in given:
            if not 0 <= feature < count:
                raise BadInput(f"label of feature {feature} is outside the dictionary of {count} features")
        shown, statuses, meanings = [], [], []
        for feature in range(count):
            text = clean(given.get(feature, ""))
            status: Status = (
                "missing" if _PLACEHOLDER.fullmatch(text) else "filtered" if _FILTERED.match(text) else "real"
            )
            statuses.append(status)
            meanings.append(text if status == "real" else "")
            shown.append(
                text if status == "real" else f"{'unlabelled' if status == 'missing' else 'filtered'} feature {feature}"
            )
        return cls(tuple(shown), tuple(statuses), tuple(meanings), embedder)

    def __len__(self) -> int:
        return len(self.shown)

    @property
    def digest(self) -> str:
        """16 hex digits over texts, statuses and meanings."""
        text = json.dumps([self.shown, self.statuses, self.meanings, self.embedder])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def text(self, feature: int) -> str:
        return self.shown[self._checked(feature)]

    def status(self, feature: int) -> Status:
        return self.statuses[self._checked(feature)]

    def search(self, query: str, k: int) -> list[Hit]:
        """The k features nearest in meaning to `query` among those with a real label; ties by id."""
        if not self._index:
            from toolkit.search import LabelIndex

            self._index.append(LabelIndex(self.meanings, self.embedder))
        return self._index[0].search(query, k)

    def _checked(self, feature: int) -> int:
        if not 0 <= feature < len(self.shown):
            raise BadInput(f"feature {feature} is out of range; features are numbered 0 to {len(self.shown) - 1}")
        return feature


def opaque(labels: Labels) -> Labels:
    """Every label is shown as feature_12; SEARCH still matches the true meaning."""
    shown = tuple(f"feature_{i}" for i in range(len(labels)))
    return Labels(shown, labels.statuses, labels.meanings, labels.embedder)


def shuffled(labels: Labels, seed: int) -> Labels:
    """One permutation of labels over features: text, status and meaning move together."""
    order = stream("shuffled labels", seed).permutation(len(labels)).tolist()
    return Labels(
        tuple(labels.shown[i] for i in order),
        tuple(labels.statuses[i] for i in order),
        tuple(labels.meanings[i] for i in order),
        labels.embedder,
    )


def clean(text: str) -> str:
    """One line without control, format or bidirectional characters, for terminals, prompts and pages alike."""
    kept = "".join(" " if c in "\n\r\t" else c for c in text if c in "\n\r\t" or unicodedata.category(c)[0] != "C")
    return " ".join(kept.split())


# ---------------------------------------------------------------------- files


def read_labels(path: str | Path, size: int, embedder: str = DEFAULT_EMBEDDER) -> Labels:
    """Labels of a dictionary of `size` features from a file, or a folder of Neuronpedia batches.

    .json: {"0": "label"} or [{"index_in_sae": 0, "label": "..."}] (Goodfire); .jsonl and .jsonl.gz: rows of Neuronpedia
    explanations; .csv and .parquet: columns `index` and `label`. Where an index has several explanations, as
    Neuronpedia allows, the first in file order counts. Raises BadInput with file, row and the way out.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"there is no label file {path}")
    files = sorted(path.glob("batch-*.jsonl*"), key=_batch) if path.is_dir() else [path]
    if not files:
        raise BadInput(
            f"folder {path} holds no batch-N.jsonl.gz; give a label file or Neuronpedia's explanations folder"
        )
    found: dict[int, str] = {}
    for file in files:
        several = ".jsonl" in file.name
        try:
            for row, (index, label) in enumerate(_reader(file)(file)):
                feature = _feature(index, file, row, size)
                if feature in found and not several:
                    raise BadInput(f"{file}, row {row}: feature {feature} has two labels; keep one")
                if isinstance(label, str):
                    found.setdefault(feature, label)
        except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadInput(f"{file} cannot be read as labels: {error}; is it whole, and UTF-8?") from error
    if not found:
        raise BadInput(f"{path} holds no label; give a file with an index and a label a row")
    return Labels.of(found, size, embedder)


Rows = Iterator[tuple[Any, Any]]


def _reader(path: Path) -> Callable[[Path], Rows]:
    for ending, reader in READERS.items():
        if path.name.lower().endswith(ending):
            return reader
    raise BadInput(f"{path} is no label file that is known; use one of {', '.join(READERS)}")


def _read_json(path: Path) -> Rows:
    whole = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_pairs)
    if isinstance(whole, _Pairs):
        yield from whole
        return
    if not isinstance(whole, list):
        raise BadInput(f'{path} should hold {{"0": "label"}} or [{{"index_in_sae": 0, "label": "..."}}]')
    for row, one in enumerate(whole):
        entry = dict(one) if isinstance(one, _Pairs) else {}
        if "index_in_sae" not in entry or "label" not in entry:
            raise BadInput(f"{path}, row {row}: index_in_sae or label is missing")
        yield entry["index_in_sae"], entry["label"]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key that stands twice is seen."""


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _read_jsonl(path: Path) -> Rows:
    opener: Callable[..., Any] = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for row, line in enumerate(lines):
            if not line.strip():
                continue
            entry = json.loads(line)
            if not isinstance(entry, dict) or "index" not in entry or "description" not in entry:
                raise BadInput(
                    f"{path}, row {row}: index or description is missing; is this a Neuronpedia explanation?"
                )
            yield entry["index"], entry["description"]


def _read_csv(path: Path) -> Rows:
    import pandas as pd

    yield from _columns(pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8"), path)


def _read_parquet(path: Path) -> Rows:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise BadInput(f"{path} cannot be read as Parquet: {error}") from error
    yield from _columns(frame, path)


def _columns(frame: Any, path: Path) -> Rows:
    if not {"index", "label"} <= set(frame.columns):
        raise BadInput(f"{path} has columns {', '.join(map(str, frame.columns))}; index and label are needed")
    return zip(frame["index"].tolist(), frame["label"].tolist(), strict=True)


READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _feature(index: Any, path: Path, row: int, size: int) -> int:
    text = str(index).strip()
    if isinstance(index, bool) or not (text.isascii() and text.isdigit()):
        raise BadInput(f"{path}, row {row}: index {index!r} is not a whole number from 0 on")
    if int(text) >= size:
        raise BadInput(
            f"{path}, row {row}: index {text} is outside the dictionary of {size} features; is this the label file of"
            " another dictionary?"
        )
    return int(text)


def _batch(path: Path) -> tuple[int, str]:
    number = re.search(r"batch-(\d+)", path.name)
    return (int(number[1]) if number else 0, path.name)


def counts(statuses: Iterable[Status]) -> dict[Status, int]:
    """How many labels there are of each status."""
    found: dict[Status, int] = {"real": 0, "filtered": 0, "missing": 0}
    for status in statuses:
        found[status] += 1
    return found
