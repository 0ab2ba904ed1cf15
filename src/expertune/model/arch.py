"""Read a ModelConfig from a GGUF by its architecture's function in `families`."""

from __future__ import annotations

from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile, why_not_generative
from .config import ModelConfig
from .families import FAMILIES
from .tensors import check_tensors


def supported() -> tuple[str, ...]:
    """Names of the architectures that can be tuned, as in a GGUF."""
    return tuple(sorted(FAMILIES))


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
    if family not in FAMILIES:
        raise FineTuningNotSupportedError(
            f"{file.path}: the architecture {family or '(none)'!r} cannot be tuned yet "
            f"(supported: {', '.join(supported())}); use the model set instead"
        )
    try:
        config = FAMILIES[family](file)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:  # text for a number, a list too short
        raise ModelFileError(f"{file.path}: invalid {family} metadata ({error}); re-export the model") from error
    check_tensors(file, config)
    return config
