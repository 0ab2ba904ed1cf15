"""Read a ModelConfig from a GGUF by its architecture's module in `families`.

A module is named after the architecture in the GGUF, with "-" written "_", and has one function, `model_config`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile, why_not_generative
from . import families
from .config import ModelConfig
from .tensors import check_tensors


@functools.cache
def supported() -> tuple[str, ...]:
    """Names of the architectures that can be tuned, as in a GGUF."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(families.__path__)))


def read_config(file: GGUFFile) -> ModelConfig:
    """Read the decoder configuration of an open GGUF and check the file's tensors against it.

    Raises FineTuningNotSupportedError for an architecture or a variant that Expertune cannot tune,
    ModelFileError if a required key or tensor is missing or a tensor has the wrong shape.
    """
    if int(file.metadata("split.count", 1) or 1) > 1:
        raise FineTuningNotSupportedError(
            f"{file.path}: is one part of a split model; merge the parts with llama-gguf-split --merge"
        )
    if kind := why_not_generative({key: file.metadata(key) for key in file.fields if "tokenizer" not in key}):
        raise FineTuningNotSupportedError(f"{file.path}: is {kind}, which cannot rate; choose a chat model")
    family = str(file.metadata("general.architecture", ""))
    if family not in supported():
        raise FineTuningNotSupportedError(
            f"{file.path}: the architecture {family or '(none)'!r} cannot be tuned yet "
            f"(supported: {', '.join(supported())}); use the model set instead"
        )
    module = importlib.import_module(f"{families.__name__}.{family.replace('-', '_')}")
    try:
        config: ModelConfig = module.model_config(file)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:  # text for a number, a list too short
        raise ModelFileError(f"{file.path}: invalid {family} metadata ({error}); re-export the model") from error
    check_tensors(file, config)
    return config
