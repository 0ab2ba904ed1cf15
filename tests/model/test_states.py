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
from expertune.model.states import SharedTokens, pooled_states, shared_tokens

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
    whole, prompts, shared = decoder_of(path), prompts_of(6, 9, 30), SharedTokens(9, 3)
    depths = (1, len(whole.config.layers))
    found_NLPD = pooled_states(whole, prompts, shared, depths)
    for layer, depth in enumerate(depths):
        below = decoder_of(path, depth)
        for tokens, state_PD in zip(prompts, found_NLPD[:, layer], strict=True):
            pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
            with torch.no_grad():
                x_TD = below.hidden(pack, torch.arange(len(tokens))).numpy()
            own_TD = x_TD[9 : max(10, len(tokens) - 3)]
            expected_PD = np.stack([own_TD.mean(axis=0), own_TD.std(axis=0)])
            np.testing.assert_allclose(state_PD, expected_PD, rtol=0, atol=2e-5)


def test_prompts_of_many_packs_with_other_beginnings_and_too_short_ones(tmp_path: Path) -> None:
    model = decoder_of(families.make(tmp_path / "model.gguf", families.FAMILIES["llama"]))
    prompts = [*prompts_of(200, 20, 60), [7, 8, 9], [*range(5, 40)]]  # the last two do not begin as the others
    shared, done = SharedTokens(20, 4), list[int]()
    together = pooled_states(model, prompts, shared, (1,), on_prompt=done.append)
    assert sum(done) == len(prompts) and len(done) > 2
    alone = np.concatenate([pooled_states(model, [each], shared, (1,)) for each in prompts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-5)
    assert not together[-2, 0, 1].any()  # shorter than the beginning: its last token alone, which does not deviate


def test_the_shared_beginning_leaves_each_prompt_a_token_of_its_own() -> None:
    assert shared_tokens([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_tokens([[1, 2], [1, 2, 4]]) == 1
    assert shared_tokens([[1, 2, 3]]) == 2


def test_what_prompts_have_in_common_at_both_ends_leaves_each_a_token() -> None:
    shared = SharedTokens.of([[1, 2, 3, 8, 9], [1, 2, 4, 5, 8, 9]])
    assert shared == SharedTokens(2, 2)
    assert (shared.own(5), shared.own(6)) == ((2, 3), (2, 4))
    assert (shared.own(3), shared.own(1)) == ((2, 3), (0, 1))  # shorter than what the others share
    assert SharedTokens.of([[1, 2, 3]]) == SharedTokens(2, 0)
    assert SharedTokens.of([[1, 5, 1], [1, 5, 5, 1]]) == SharedTokens(2, 0)  # a token is not shared twice
