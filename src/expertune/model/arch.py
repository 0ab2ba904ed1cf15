"""GGUF → Spec, by the family's own file in `families`; a family without one is refused by name.

A family's file is called as its architecture in the GGUF, "-" written "_", and has one function, `spec`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile
from . import families
from .config import ModelConfig
from .tensors import check_tensors


@functools.cache
def supported() -> tuple[str, ...]:
    """The architectures that can be tuned, by their names in a GGUF."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(families.__path__)))


def read_config(file: GGUFFile) -> ModelConfig:
    """The decoder's settings from an open GGUF, its tensors checked against them.

    Raises FineTuningNotSupportedError for a family or a variant that Expertune cannot tune,
    ModelFileError where a needed key or tensor is missing or has another shape.
    """
    if int(file.metadata("split.count", 1) or 1) > 1:
        raise FineTuningNotSupportedError(
            f"{file.path}: is one part of a split model; join the parts with llama-gguf-split --merge"
        )
    family = str(file.metadata("general.architecture", ""))
    if family not in supported():
        raise FineTuningNotSupportedError(
            f"{file.path}: the architecture {family or '(none)'!r} cannot be tuned yet "
            f"(supported: {', '.join(supported())}); use the model set instead"
        )
    module = importlib.import_module(f"{families.__name__}.{family.replace('-', '_')}")
    try:
        spec: ModelConfig = module.spec(file)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:  # text for a number, a list too short
        raise ModelFileError(
            f"{file.path}: its metadata make no {family} model ({error}); export the model again"
        ) from error
    check_tensors(file, spec)
    return spec
