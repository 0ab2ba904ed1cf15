"""Invalid metadata give a one-line error with the file's name, for every family and every key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import families
from expertune.errors import ExpertuneError, ModelFileError
from expertune.gguf.read import GGUFFile
from expertune.model.arch import read_config
from expertune.model.target_modules import adapted_names

ODD: tuple[Any, ...] = (0, -1, 3, 10**12, 1.5, math.nan, math.inf, "x", [], [1], ["x"] * 9, True)
LISTS = ("attention.sliding_window_pattern", "attention.recurrent_layers", "rope.dimension_sections")


class Changed(GGUFFile):
    """A file with one metadata value replaced."""

    key, value = "", None

    def metadata(self, key: str, default: Any = None) -> Any:
        return self.value if key == self.key else super().metadata(key, default)


@pytest.mark.parametrize("name", list(families.FAMILIES))
def test_invalid_values_give_a_one_line_error(tmp_path: Path, name: str) -> None:
    family = families.FAMILIES[name]
    with Changed(families.make(tmp_path / "model.gguf", family)) as file:
        prefix = f"{family.architecture}."
        keys = [key for key in file.fields if key.startswith(prefix)]
        for file.key in [*keys, *(prefix + key for key in LISTS)]:
            for file.value in ODD:
                error = error_of(file)
                assert error is None or (str(file.path) in error and "\n" not in error)


def error_of(file: GGUFFile) -> str | None:
    try:
        adapted_names(file, read_config(file), "all")
    except ExpertuneError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 10**12, "metadata declare 1000000000000 blocks, but the file has only"),
        ("llama.rope.dimension_count", 10**12, "a head has only 16 elements"),
        ("llama.rope.freq_base", "x", "llama.rope.freq_base is not a finite number"),
        ("llama.rope.freq_base", -1.0, "invalid llama metadata"),
        ("llama.attention.head_count_kv", [2], "has 1 values for 2 layers"),
    ],
)
def test_error_message(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with Changed(families.make(tmp_path / "model.gguf", families.FAMILIES["llama"])) as file:
        file.key, file.value = key, value
        with pytest.raises(ModelFileError, match=message):
            read_config(file)
