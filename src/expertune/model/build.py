"""A file's tensors and its Spec → the Decoder. What is there is taken; whether it may be, `tensors` has checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..gguf.read import GGUFFile
from .block import Block, Dense, FeedForward, Mixer, OwnInput
from .config import LayerConfig, ModelConfig
from .convolution import ShortConvolution
from .decoder import Decoder, OwnInputs
from .experts import Mixture
from .feed_forward import activation
from .gated_delta_net import DeltaNet
from .linear import FusedLinear, Part
from .lm_head import LMHead
from .lora import LoraLayer as Adapted
from .lora import LoraWeights
from .norm import Norm
from .self_attention import SelfAttention
from .target_modules import MIXER, adapted_names, present
from .weights import Embedding, ExpertWeights, FrozenWeight, Storage


def adapted_layers(file: GGUFFile, spec: ModelConfig, targets: str) -> list[Adapted]:
    """The linear layers that get an adapter."""
    return [Adapted(name, *file.tensors[f"{name}.weight"].shape) for name in adapted_names(file, spec, targets)]


def build(file: GGUFFile, spec: ModelConfig, lora: LoraWeights, storage: Storage, *, recompute: bool) -> Decoder:
    """The decoder with adapters on the layers that `lora` holds."""
    parts = _Parts(file, spec, lora, storage)
    head = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
    return Decoder(
        spec,
        embedding=Embedding(file),
        own_inputs=parts.own_inputs() if spec.own_input else None,
        blocks=[parts.block(index, layer) for index, layer in enumerate(spec.layers)],
        norm=parts.need_norm(spec.output_norm),
        head=LMHead(FrozenWeight(file, [head], storage), spec.logit_scale, spec.logit_cap),
        dtype=storage.dtype,
        device=storage.device,
        recompute=recompute,
    )


class _Parts:
    """Makes stacks, norms and mixtures from the tensors of one file."""

    def __init__(self, file: GGUFFile, spec: ModelConfig, lora: LoraWeights, storage: Storage) -> None:
        self._file, self._spec, self._lora, self._storage = file, spec, lora, storage
        self._adapted = frozenset(layer.name for layer in lora.layers)
        self._activation = activation(spec.activation, gated=spec.gated)

    def block(self, index: int, layer: LayerConfig) -> Block:
        prefix, spec = f"blk.{index}.", self._spec
        inputs, output = (self.stack(prefix, list(present(self._file, index, layer, names))) for names in MIXER)
        behind = "post_attention_norm" if spec.feed_forward_norm != "post_attention_norm" else ""
        out_scale = self.vector(prefix + "layer_output_scale.weight")
        return Block(
            mixer=self.mixer(index, layer, inputs),
            output=output,
            mixer_post_norm=self.norm(prefix + behind),
            feed_forward=self.feed_forward(prefix),
            feed_forward_post_norm=self.norm(prefix + "post_ffw_norm"),
            own_input=self.own_input(index) if spec.own_input else None,
            parallel=spec.parallel,
            residual_scale=spec.residual_scale,
            out_scale=1.0 if out_scale is None else float(out_scale),
        )

    def mixer(self, index: int, layer: LayerConfig, inputs: FusedLinear) -> Mixer:
        prefix, norm = f"blk.{index}.", self.norm(f"blk.{index}.attn_norm")
        if layer.delta is not None:
            taps_EK, fading_H = self.need(prefix + "ssm_conv1d.weight"), self.need(prefix + "ssm_a")
            step_bias_H, head_norm = self.need(prefix + "ssm_dt.bias"), self.need_norm(prefix + "ssm_norm")
            return DeltaNet(layer.delta, norm, inputs, taps_EK, fading_H, step_bias_H, head_norm)
        if layer.taps:
            return ShortConvolution(norm, inputs, self.need(prefix + "shortconv.conv.weight"))
        values_norm = Norm(None, None, self._spec.epsilon, False) if self._spec.normed_values else None
        return SelfAttention(
            index=index,
            heads=layer.heads,
            rope=layer.rope,
            norm=norm,
            qkv=inputs,
            head_norms=(self.norm(prefix + "attn_q_norm"), self.norm(prefix + "attn_k_norm"), values_norm),
            sinks_H=self.vector(prefix + "attn_sinks.weight"),
            keys_of=layer.keys_of,
            gated=layer.gated,
        )

    def feed_forward(self, prefix: str) -> FeedForward:
        return FeedForward(
            norm=self.norm(prefix + ("attn_norm" if self._spec.parallel else self._spec.feed_forward_norm)),
            dense=self.dense(prefix),
            mixture=self.mixture(prefix),
            shared_gate_D=self.vector(prefix + "ffn_gate_inp_shexp.weight"),
            expert_norm=self.norm(prefix + "pre_ffw_norm_2"),
            router_norm=self.router_norm(prefix),
            dense_post_norm=self.norm(prefix + "post_ffw_norm_1"),
            mixture_post_norm=self.norm(prefix + "post_ffw_norm_2"),
        )

    def own_inputs(self) -> OwnInputs:
        return OwnInputs(
            Embedding(self._file, "per_layer_token_embd.weight"),
            FrozenWeight(self._file, ["per_layer_model_proj.weight"], self._storage),
            self.need_norm("per_layer_proj_norm"),
            self._spec.own_input,
        )

    def own_input(self, index: int) -> OwnInput:
        prefix = f"blk.{index}."
        gate, output = self.stack(prefix, ["inp_gate"]), self.stack(prefix, ["proj"])
        return OwnInput(index, gate, output, self.need_norm(prefix + "post_norm"), self._activation)

    def router_norm(self, prefix: str) -> Norm | None:
        """Gemma 4's router has a norm of its own, scaled by the root of the model's width."""
        scale_D = self.vector(prefix + "ffn_gate_inp.scale")
        return scale_D if scale_D is None else Norm(scale_D * self._spec.width**-0.5, None, self._spec.epsilon, False)

    def dense(self, prefix: str) -> Dense | None:
        """The block's own, or the expert that every token uses."""
        ending = next((each for each in ("", "_shexp") if self.has(f"{prefix}ffn_down{each}.weight")), None)
        if ending is None:
            return None
        inner = [name + ending for name in ("ffn_gate", "ffn_up") if self.has(f"{prefix}{name}{ending}.weight")]
        return Dense(self.stack(prefix, inner), self.stack(prefix, [f"ffn_down{ending}"]), self._activation)

    def mixture(self, prefix: str) -> Mixture | None:
        router_ED = self.array(prefix + "ffn_gate_inp.weight")
        if router_ED is None or self._spec.experts is None:
            return None
        fused = [f"{prefix}ffn_gate_up_exps"]
        inner = fused if self.has(f"{fused[0]}.weight") else [f"{prefix}ffn_gate_exps", f"{prefix}ffn_up_exps"]
        return Mixture(
            router_ED,
            self.array(prefix + "ffn_gate_inp.bias"),
            self.experts(inner),
            self.experts([f"{prefix}ffn_down_exps"]),
            self._spec.experts.used,
            self._activation,
            self.vector(prefix + "ffn_down_exps.scale"),
        )

    def experts(self, names: Sequence[str]) -> ExpertWeights:
        biases = [bias for name in names if (bias := self.array(f"{name}.bias")) is not None]
        bias_EO = torch.cat(biases, dim=-1).to(self._storage.dtype) if biases else None
        return ExpertWeights(self._file, [f"{name}.weight" for name in names], self._storage, bias_EO)

    def stack(self, prefix: str, names: Sequence[str]) -> FusedLinear:
        parts, row = [], 0
        for name in names:
            rows = self._file.tensors[f"{prefix}{name}.weight"].rows
            parts.append(Part(prefix + name, row, row + rows, prefix + name in self._adapted))
            row += rows
        weight = FrozenWeight(self._file, [f"{prefix}{name}.weight" for name in names], self._storage)
        return FusedLinear(weight, parts, self._lora, self._bias(parts))

    def norm(self, name: str) -> Norm | None:
        return self.need_norm(name) if self.has(f"{name}.weight") else None

    def need_norm(self, name: str) -> Norm:
        return Norm(self.need(f"{name}.weight"), self.vector(f"{name}.bias"), self._spec.epsilon, self._spec.centred)

    def need(self, name: str) -> torch.Tensor:
        """A small tensor that `tensors` has seen in the file."""
        values = self.array(name)
        assert values is not None
        return values

    def has(self, name: str) -> bool:
        return name in self._file.tensors

    def array(self, name: str) -> torch.Tensor | None:
        """A small tensor in float32 in its shape, or None where the file has none."""
        if not self.has(name):
            return None
        return torch.from_numpy(np.array(self._file.tensor(name), dtype=np.float32)).to(self._storage.device)

    def vector(self, name: str) -> torch.Tensor | None:
        values = self.array(name)
        return None if values is None else values.reshape(-1)

    def _bias(self, parts: Sequence[Part]) -> torch.Tensor | None:
        found = [self.vector(f"{part.name}.bias") for part in parts]
        if all(bias_O is None for bias_O in found):
            return None
        device = self._storage.device
        pieces = [
            torch.zeros(part.stop - part.start, device=device) if bias_O is None else bias_O
            for part, bias_O in zip(parts, found, strict=True)
        ]
        return torch.cat(pieces).to(self._storage.dtype)
