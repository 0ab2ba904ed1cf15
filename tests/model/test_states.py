"""Hidden states in the middle of a model: those of the training's forward pass, whatever is packed together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import families
from expertune.config import Config
from expertune.gguf.read import GGUFFile
from expertune.model.attention import Segment
from expertune.model.decoder import Decoder
from expertune.model.forward_context import Pack
from expertune.model.load import Placement, load
from expertune.model.states import pooled_states, shared_tokens

CPU = Placement(torch.device("cpu"), torch.float32, True, 1)


def decoder_of(path: Path, blocks: int | None = None) -> Decoder:
    with GGUFFile(path) as file:
        return load(file, Config(), CPU, blocks=blocks).decoder


def prompts_of(count: int, shared: int, longest: int) -> list[list[int]]:
    draw = np.random.default_rng(3)
    beginning = draw.integers(5, 200, shared).tolist()
    return [beginning + draw.integers(5, 200, int(draw.integers(1, longest))).tolist() for _ in range(count)]


@pytest.mark.parametrize("name", ["llama", "gemma2", "lfm2", "gemma4 small"])
def test_states_are_those_of_the_forward_pass_of_each_prompt_alone(name: str, tmp_path: Path) -> None:
    """`hidden` of a model that ends after the block is the reference; its logits are compared with llama.cpp's."""
    path = families.make(tmp_path / "model.gguf", families.FAMILIES[name])
    whole, prompts, shared = decoder_of(path), prompts_of(6, 9, 30), 9
    depths = (1, len(whole.config.layers))
    found_NLPD = pooled_states(whole, prompts, shared, depths)
    for layer, depth in enumerate(depths):
        below = decoder_of(path, depth)
        for tokens, state_PD in zip(prompts, found_NLPD[:, layer], strict=True):
            pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
            with torch.no_grad():
                x_TD = below.hidden(pack, torch.arange(len(tokens))).numpy()
            np.testing.assert_allclose(state_PD, np.stack([x_TD[shared:].mean(axis=0), x_TD[-1]]), rtol=0, atol=2e-5)


def test_prompts_of_many_packs_with_other_beginnings_and_too_short_ones(tmp_path: Path) -> None:
    model = decoder_of(families.make(tmp_path / "model.gguf", families.FAMILIES["llama"]))
    prompts = [*prompts_of(150, 20, 60), [7, 8, 9], [*range(5, 40)]]  # the last two do not begin as the others
    done: list[int] = []
    together = pooled_states(model, prompts, 20, (1,), on_prompt=done.append)
    assert sum(done) == len(prompts) and len(done) > 2
    alone = np.concatenate([pooled_states(model, [each], 20, (1,)) for each in prompts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(together[-2, 0, 0], together[-2, 0, 1])  # shorter than the beginning: its last token


def test_the_shared_beginning_leaves_each_prompt_a_token_of_its_own() -> None:
    assert shared_tokens([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_tokens([[1, 2], [1, 2, 4]]) == 1
    assert shared_tokens([[1, 2, 3]]) == 2
