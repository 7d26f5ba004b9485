"""Labels of features: what each is called, whether that can be trusted, and the label files that people publish.

Knows no SAE and no engine.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from toolkit.errors import BadInput
from toolkit.randomness import cycle
from toolkit.search import DEFAULT_EMBEDDER, Hit, LabelIndex, clean

Status = Literal["real", "filtered", "missing"]
STATUSES: tuple[Status, ...] = get_args(Status)
# FILTERED_BY_GOODFIRE, [filtered], filtered feature 3; but "filtered water" is a label
_FILTERED = re.compile(r"[\[(<]?(?:FILTERED(?![a-z]).*|(?i:filtered(?:_.*|(?: feature)? \d+)?)[\])>]?)")
# None, feature 12, unlabelled latent_3, [placeholder], 12; but "placeholder text in templates" is a label
_PLACEHOLDER = re.compile(
    r"[\[(<]?(?:none|null|nan|n/?a|no label|unknown|-+|(?:feature|latent)?[ _#:-]*\d+"
    r"|(?:unlabel+ed|placeholder)[ _#:-]*(?:(?:feature|latent|label)[ _#:-]*)?\d*)?[\])>]?",
    re.IGNORECASE,
)
_STAND_INS = {"missing": "unlabelled feature {}", "filtered": "filtered feature {}", "opaque": "feature_{}"}


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
        cls,
        labels: Mapping[int, str] | Sequence[str],
        size: int | None = None,
        embedder: str = DEFAULT_EMBEDDER,
        statuses: Mapping[int, Status] | None = None,
    ) -> Labels:
        """Labels from texts by feature, or one text for every feature; features without one are `missing`.

        statuses: where it is known; else it is read off the text. A text that is blank is missing whatever is known.
        Raises BadInput for a feature outside `size`, and for a list of another size.
        """
        given = labels if isinstance(labels, Mapping) else dict(enumerate(labels))
        count = max(given, default=-1) + 1 if size is None else size
        for feature in given:
            if not 0 <= feature < count:
                raise BadInput(f"label of feature {feature} is outside the dictionary of {count} features")
        if not isinstance(labels, Mapping) and len(given) != count:
            raise BadInput(
                f"{len(given)} labels are listed for {count} features; give one each, or a mapping by feature"
            )
        texts = [clean(given.get(feature, "")) for feature in range(count)]
        known = statuses or {}
        decided = [known.get(i, _status(text)) if text else "missing" for i, text in enumerate(texts)]
        real = [status == "real" for status in decided]
        return cls(
            tuple(text if real[i] else _STAND_INS[decided[i]].format(i) for i, text in enumerate(texts)),
            tuple(decided),
            tuple(text if real[i] else "" for i, text in enumerate(texts)),
            embedder,
        )

    def __len__(self) -> int:
        return len(self.shown)

    @cached_property
    def digest(self) -> str:
        """16 hex digits over texts, statuses, meanings and the embedder's name."""
        text = json.dumps([self.shown, self.statuses, self.meanings, self.embedder])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def text(self, feature: int) -> str:
        return self.shown[self._checked(feature)]

    def status(self, feature: int) -> Status:
        return self.statuses[self._checked(feature)]

    def search(self, query: str, k: int) -> list[Hit]:
        """The k features nearest in meaning to `query` among those with a real label; ties by id."""
        # a view that shows other texts shares the index; one that means other things must not
        if not self._index or self._index[0].source is not self.meanings or self._index[0].embedder != self.embedder:
            self._index[:] = [LabelIndex(self.meanings, self.embedder)]
        return self._index[0].search(query, k)

    def _checked(self, feature: int) -> int:
        if not 0 <= feature < len(self.shown):
            raise BadInput(f"feature {feature} is out of range; features are numbered 0 to {len(self.shown) - 1}")
        return feature


def opaque(labels: Labels) -> Labels:
    """Every label is shown as feature_12; SEARCH still matches the true meaning."""
    return replace(labels, shown=tuple(_STAND_INS["opaque"].format(i) for i in range(len(labels))))


def shuffled(labels: Labels, seed: int) -> Labels:
    """One permutation of labels over features: text, status and meaning move together, and no feature keeps its own.

    A text that only names its feature by number, as of a missing label, names the feature that it is shown at.
    Raises BadInput for fewer than two features.
    """
    order: list[int] = cycle(len(labels), "shuffled labels", seed).tolist()
    return Labels(
        tuple(_moved(labels.shown[old], old, new) for new, old in enumerate(order)),
        tuple(labels.statuses[old] for old in order),
        tuple(labels.meanings[old] for old in order),
        labels.embedder,
    )


def _moved(text: str, old: int, new: int) -> str:
    return next((form.format(new) for form in _STAND_INS.values() if text == form.format(old)), text)


def _status(text: str) -> Status:
    if _PLACEHOLDER.fullmatch(text):
        return "missing"
    return "filtered" if _FILTERED.fullmatch(text) else "real"


# ---------------------------------------------------------------------- files


def read_labels(path: str | Path, size: int, embedder: str = DEFAULT_EMBEDDER) -> Labels:
    """Labels of a dictionary of `size` features from a file, or a folder of Neuronpedia batches.

    .json: {"0": "label"} or [{"index_in_sae": 0, "label": "..."}] (Goodfire); .jsonl and .jsonl.gz: rows of Neuronpedia
    explanations; .csv and .parquet: columns `index` and `label`, and `status` (real, filtered, missing) where it is
    known. Of several explanations of one index, which Neuronpedia allows, the first by (batch number, row) that is not
    blank counts. Raises BadInput with file, row (counted from 1, without a header) and the way out.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"there is no label file {path}")
    files = sorted(path.glob("batch-*.jsonl*"), key=_batch) if path.is_dir() else [path]
    if not files:
        raise BadInput(
            f"folder {path} holds no batch-N.jsonl.gz; give a label file or Neuronpedia's explanations folder"
        )
    texts: dict[int, str] = {}
    statuses: dict[int, Status] = {}
    for file in files:
        reader = _reader(file)
        row = 0
        try:
            for row, index, label, status in reader(file):
                feature = _feature(index, file, row, size)
                if label is not None and not isinstance(label, str):
                    raise BadInput(f"{file}, row {row}: label {label!r} is not a text; quote it, or leave it out")
                if feature in texts and reader is not _read_jsonl:
                    raise BadInput(f"{file}, row {row}: feature {feature} has two labels; keep one")
                texts[feature] = texts.get(feature) or clean(label or "")
                if status:
                    statuses[feature] = _stated(status, file, row)
        except (OSError, EOFError, zlib.error, ValueError, RecursionError, csv.Error) as error:
            after = f" after row {row}" if row else ""
            raise BadInput(f"{file} cannot be read as labels{after}: {error}; is it whole, and UTF-8?") from error
    if not texts:
        raise BadInput(f"{path} holds no label; give a file with an index and a label a row")
    return Labels.of(texts, size, embedder, statuses)


Rows = Iterator[tuple[int, Any, Any, Any]]  # row, index, label, status


def _reader(path: Path) -> Callable[[Path], Rows]:
    for ending, reader in READERS.items():
        if path.name.lower().endswith(ending):
            return reader
    raise BadInput(f"{path} is no label file that is known; use one of {', '.join(READERS)}")


def _read_json(path: Path) -> Rows:
    whole = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    if isinstance(whole, _Pairs):
        for row, (index, label) in enumerate(whole, 1):
            yield row, index, label, None
        return
    if not isinstance(whole, list):
        raise BadInput(f'{path} should hold {{"0": "label"}} or [{{"index_in_sae": 0, "label": "..."}}]')
    for row, one in enumerate(whole, 1):
        entry = dict(one) if isinstance(one, _Pairs) else {}
        if "index_in_sae" not in entry or "label" not in entry:
            raise BadInput(f"{path}, row {row}: index_in_sae or label is missing")
        yield row, entry["index_in_sae"], entry["label"], None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key that stands twice is seen."""


def _read_jsonl(path: Path) -> Rows:
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    first: tuple[Any, Any] | None = None
    with opener(path, "rt", encoding="utf-8-sig") as lines:
        for row, line in enumerate(lines, 1):
            if not line.strip():
                continue
            entry = json.loads(line)
            if not isinstance(entry, dict) or "index" not in entry or "description" not in entry:
                raise BadInput(
                    f"{path}, row {row}: index or description is missing; is this a Neuronpedia explanation?"
                )
            whose = (entry.get("modelId"), entry.get("layer"))
            if (first := first or whose) != whose:
                raise BadInput(f"{path}, row {row} is of SAE {whose}, the rows before it of {first}; take them apart")
            yield row, entry["index"], entry["description"], None


def _read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, strict=True)
        names = [name.strip() for name in next(lines, [])]
        _check_columns(names, path)
        for row, cells in enumerate(lines, 1):
            if cells and len(cells) != len(names):
                raise BadInput(
                    f"{path}, row {row}: {len(cells)} cells under {len(names)} columns; quote a label that has a comma"
                )
            if cells:
                entry = dict(zip(names, cells, strict=True))
                yield row, entry["index"], entry["label"], entry.get("status")


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, path)
            wanted = [name for name in ("index", "label", "status") if name in file.schema_arrow.names]
            entries = file.read(columns=wanted).to_pylist()
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path} cannot be read as Parquet: {error}; is it whole?") from error
    for row, entry in enumerate(entries, 1):
        yield row, entry["index"], entry["label"], entry.get("status")


def _check_columns(names: Sequence[str], path: Path) -> None:
    if not {"index", "label"} <= set(names):
        raise BadInput(f"{path} has columns {', '.join(names) or 'none'}; index and label are needed")
    if twice := {name for name in names if names.count(name) > 1} & {"index", "label", "status"}:
        raise BadInput(f"{path} has two columns {', '.join(sorted(twice))}; keep one")


READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _feature(index: Any, path: Path, row: int, size: int) -> int:
    whole = int(index) if isinstance(index, float) and index.is_integer() else index
    text = str(whole).strip()
    if isinstance(index, bool) or not (text.isascii() and text.isdigit()):
        raise BadInput(f"{path}, row {row}: index {index!r} is not a whole number from 0 on")
    if int(text) >= size:
        raise BadInput(
            f"{path}, row {row}: index {text} is outside the dictionary of {size} features; is this the label file of"
            " another dictionary?"
        )
    return int(text)


def _stated(status: Any, path: Path, row: int) -> Status:
    for known in STATUSES:
        if status == known:
            return known
    raise BadInput(f"{path}, row {row}: status {status!r} is unknown; use {', '.join(STATUSES)}, or leave it empty")


def _batch(path: Path) -> tuple[int, str]:
    number = re.search(r"batch-(\d+)", path.name)
    return (int(number[1]) if number else 0, path.name)


def counts(statuses: Iterable[Status]) -> dict[Status, int]:
    """How many labels there are of each status."""
    found: dict[Status, int] = {"real": 0, "filtered": 0, "missing": 0}
    for status in statuses:
        found[status] += 1
    return found
