"""Build the Decoder from a file's tensors and its ModelConfig; `tensors.check_tensors` has checked them before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..gguf.read import GGUFFile
from .block import Block, Dense, FeedForward, Mixer, PerLayerInput
from .config import LayerConfig, ModelConfig
from .convolution import ShortConvolution
from .decoder import Decoder, PerLayerEmbeddings
from .experts import Mixture
from .feed_forward import activation
from .gated_delta_net import DeltaNet
from .linear import FusedLinear, Part
from .lm_head import LMHead
from .lora import LoraLayer, LoraWeights
from .norm import Norm
from .self_attention import SelfAttention
from .target_modules import MIXER, adapted_names, present
from .weights import Embedding, ExpertWeights, FrozenWeight, Storage


def adapted_layers(file: GGUFFile, config: ModelConfig, targets: str, first: int = 0) -> list[LoraLayer]:
    """List the linear layers that get an adapter: those of the blocks from `first` on."""
    names = adapted_names(file, config, targets, first)
    return [LoraLayer(name, *file.tensors[f"{name}.weight"].shape) for name in names]


def build(
    file: GGUFFile, config: ModelConfig, lora: LoraWeights, storage: Storage, *, first_adapted: int, recompute: bool
) -> Decoder:
    """Build the decoder, with adapters on the layers of `lora`; `first_adapted` is the lowest block with one."""
    builder = _Builder(file, config, lora, storage)
    name = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
    head = FrozenWeight(file, [name], storage)
    return Decoder(
        config,
        embedding=_embedding(file, storage, head if name == "token_embd.weight" else None),
        per_layer_embeddings=builder.per_layer_embeddings() if config.per_layer_embedding_dim else None,
        blocks=[builder.block(index, layer) for index, layer in enumerate(config.layers)],
        norm=builder.need_norm(config.output_norm),
        head=LMHead(head, config.logit_scale, config.logit_softcap),
        dtype=storage.dtype,
        device=storage.device,
        first_adapted=first_adapted,
        recompute=recompute,
    )


def _embedding(file: GGUFFile, storage: Storage, tied: FrozenWeight | None) -> Embedding:
    """Token embeddings; on CUDA with a table on the device, which the output head shares if it is the same tensor."""
    if storage.device.type != "cuda" or storage.scratch is not None:
        return Embedding(file)
    return Embedding(file, table_VD=(tied or FrozenWeight(file, ["token_embd.weight"], storage)).matrix())


class _Builder:
    """Makes blocks, linear layers, norms and mixtures of experts from the tensors of one file."""

    def __init__(self, file: GGUFFile, config: ModelConfig, lora: LoraWeights, storage: Storage) -> None:
        self._file, self._config, self._lora, self._storage = file, config, lora, storage
        self._adapted = frozenset(layer.name for layer in lora.layers)
        self._activation = activation(config.activation, gated=config.gated)

    def block(self, index: int, layer: LayerConfig) -> Block:
        prefix, config = f"blk.{index}.", self._config
        inputs, output = (self.linear(prefix, list(present(self._file, index, layer, names))) for names in MIXER)
        post_norm_name = "post_attention_norm" if config.feed_forward_norm != "post_attention_norm" else ""
        out_scale = self.vector(prefix + "layer_output_scale.weight")
        return Block(
            mixer=self.mixer(index, layer, inputs),
            output=output,
            mixer_post_norm=self.norm(prefix + post_norm_name),
            feed_forward=self.feed_forward(prefix),
            feed_forward_post_norm=self.norm(prefix + "post_ffw_norm"),
            per_layer_input=self.per_layer_input(index) if config.per_layer_embedding_dim else None,
            config=config,
            out_scale=1.0 if out_scale is None else float(out_scale),
        )

    def mixer(self, index: int, layer: LayerConfig, inputs: FusedLinear) -> Mixer:
        prefix, norm = f"blk.{index}.", self.norm(f"blk.{index}.attn_norm")
        if layer.gated_delta_net is not None:
            kernel_EK, decay_H = self.need(prefix + "ssm_conv1d.weight"), self.need(prefix + "ssm_a")
            step_bias_H, head_norm = self.need(prefix + "ssm_dt.bias"), self.need_norm(prefix + "ssm_norm")
            return DeltaNet(layer.gated_delta_net, norm, inputs, kernel_EK, decay_H, step_bias_H, head_norm)
        if layer.conv_kernel:
            return ShortConvolution(norm, inputs, self.need(prefix + "shortconv.conv.weight"))
        values_norm = Norm(None, None, self._config.epsilon, False) if self._config.value_norm else None
        head_norms = self.norm(prefix + "attn_q_norm"), self.norm(prefix + "attn_k_norm"), values_norm
        return SelfAttention(index, layer, norm, inputs, head_norms, self.vector(prefix + "attn_sinks.weight"))

    def feed_forward(self, prefix: str) -> FeedForward:
        norm = "attn_norm" if self._config.parallel_residual else self._config.feed_forward_norm
        return FeedForward(
            norm=self.norm(prefix + norm),
            dense=self.dense(prefix),
            mixture=self.mixture(prefix),
            shared_gate_D=self.vector(prefix + "ffn_gate_inp_shexp.weight"),
            expert_norm=self.norm(prefix + "pre_ffw_norm_2"),
            router_norm=self.router_norm(prefix),
            dense_post_norm=self.norm(prefix + "post_ffw_norm_1"),
            mixture_post_norm=self.norm(prefix + "post_ffw_norm_2"),
        )

    def per_layer_embeddings(self) -> PerLayerEmbeddings:
        return PerLayerEmbeddings(
            Embedding(self._file, "per_layer_token_embd.weight"),
            FrozenWeight(self._file, ["per_layer_model_proj.weight"], self._storage),
            self.need_norm("per_layer_proj_norm"),
            self._config.per_layer_embedding_dim,
        )

    def per_layer_input(self, index: int) -> PerLayerInput:
        prefix = f"blk.{index}."
        gate, output = self.linear(prefix, ["inp_gate"]), self.linear(prefix, ["proj"])
        return PerLayerInput(index, gate, output, self.need_norm(prefix + "post_norm"), self._activation)

    def router_norm(self, prefix: str) -> Norm | None:
        """Norm of Gemma 4's router: its weights are divided by the square root of the model width."""
        scale_D = self.vector(prefix + "ffn_gate_inp.scale")
        if scale_D is None:
            return None
        return Norm(scale_D * self._config.width**-0.5, None, self._config.epsilon, False)

    def dense(self, prefix: str) -> Dense | None:
        """The dense feed-forward network of a block, or the shared expert of a mixture."""
        ending = next((each for each in ("", "_shexp") if self.has(f"{prefix}ffn_down{each}.weight")), None)
        if ending is None:
            return None
        inner = [name + ending for name in ("ffn_gate", "ffn_up") if self.has(f"{prefix}{name}{ending}.weight")]
        return Dense(self.linear(prefix, inner), self.linear(prefix, [f"ffn_down{ending}"]), self._activation)

    def mixture(self, prefix: str) -> Mixture | None:
        router_ED = self.array(prefix + "ffn_gate_inp.weight")
        if router_ED is None or self._config.experts is None:
            return None
        fused = [f"{prefix}ffn_gate_up_exps"]
        inner = fused if self.has(f"{fused[0]}.weight") else [f"{prefix}ffn_gate_exps", f"{prefix}ffn_up_exps"]
        return Mixture(
            router_ED,
            self.array(prefix + "ffn_gate_inp.bias"),
            self.experts(inner),
            self.experts([f"{prefix}ffn_down_exps"]),
            self._config.experts.used,
            self._activation,
            self.vector(prefix + "ffn_down_exps.scale"),
        )

    def experts(self, names: Sequence[str]) -> ExpertWeights:
        biases = [bias for name in names if (bias := self.array(f"{name}.bias")) is not None]
        bias_EO = torch.cat(biases, dim=-1).to(self._storage.dtype) if biases else None
        return ExpertWeights(self._file, [f"{name}.weight" for name in names], self._storage, bias_EO)

    def linear(self, prefix: str, names: Sequence[str]) -> FusedLinear:
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
        return Norm(
            self.need(f"{name}.weight"), self.vector(f"{name}.bias"), self._config.epsilon, self._config.layernorm
        )

    def need(self, name: str) -> torch.Tensor:
        """A small tensor that `check_tensors` found in the file."""
        values = self.array(name)
        assert values is not None
        return values

    def has(self, name: str) -> bool:
        return name in self._file.tensors

    def array(self, name: str) -> torch.Tensor | None:
        """A small tensor as float32 in its shape, or None if the file has no such tensor."""
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
        biases = [
            torch.zeros(part.stop - part.start, device=device) if bias_O is None else bias_O
            for part, bias_O in zip(parts, found, strict=True)
        ]
        return torch.cat(biases).to(self._storage.dtype)
