"""The organism: a tiny real model with its SAE, labels and vectors, shipped with the package, and the recipe for it."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
MODEL = ASSETS / "model"
SAE = ASSETS / "sae"
LABELS = ASSETS / "labels.json"
VECTORS = ASSETS / "vectors"
CALIBRATION = ASSETS / "calibration.json"
