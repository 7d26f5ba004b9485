"""What a notebook user imports: contexts, steering, feature dictionaries, tools and engines.

Names are resolved when they are first used, so `import toolkit` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.calibrate import Calibration, calibrated, load_calibration
    from toolkit.context import Context, Segment
    from toolkit.dictionary import FeatureDictionary
    from toolkit.engines.base import Completion, Generate, Read, Sampling, Score, check_steered, read_texts, run
    from toolkit.engines.local import LocalEngine
    from toolkit.engines.nnsight import NnsightEngine
    from toolkit.engines.scripted import ScriptedEngine
    from toolkit.errors import BadInput, DictionaryMismatch, SelfsteerError, SteeringError, Unsupported
    from toolkit.labels import Labels, read_labels
    from toolkit.opening import open_dictionary
    from toolkit.reading import measure
    from toolkit.sae import open_sae
    from toolkit.steering import NO_STEERING, Intervention, Steering
    from toolkit.tools import Call, Reading, Receipt, Toolbox, carry_out
    from toolkit.vectors import Vectors, extract, load_vectors, save_vectors

_HOMES = {
    "Calibration": "calibrate",
    "calibrated": "calibrate",
    "load_calibration": "calibrate",
    "Context": "context",
    "Segment": "context",
    "FeatureDictionary": "dictionary",
    "Completion": "engines.base",
    "Generate": "engines.base",
    "Read": "engines.base",
    "Sampling": "engines.base",
    "Score": "engines.base",
    "check_steered": "engines.base",
    "read_texts": "engines.base",
    "run": "engines.base",
    "LocalEngine": "engines.local",
    "NnsightEngine": "engines.nnsight",
    "ScriptedEngine": "engines.scripted",
    "BadInput": "errors",
    "DictionaryMismatch": "errors",
    "SelfsteerError": "errors",
    "SteeringError": "errors",
    "Unsupported": "errors",
    "Labels": "labels",
    "read_labels": "labels",
    "open_dictionary": "opening",
    "measure": "reading",
    "open_sae": "sae",
    "NO_STEERING": "steering",
    "Intervention": "steering",
    "Steering": "steering",
    "Call": "tools",
    "Reading": "tools",
    "Receipt": "tools",
    "Toolbox": "tools",
    "carry_out": "tools",
    "Vectors": "vectors",
    "extract": "vectors",
    "load_vectors": "vectors",
    "save_vectors": "vectors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"toolkit has no {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(f"toolkit.{_HOMES[name]}"), name)
