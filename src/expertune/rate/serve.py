"""Serve a product: the scorer of its records, on the very file that was judged."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ..config import Config, make_config
from ..engine.base import Engine
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import locate
from ..engine.ollama import model
from ..engine.ollama.engine import OllamaEngine
from ..engine.ollama.render import OllamaRenderer
from ..engine.ollama.server import OllamaServer, running_server
from ..errors import EngineError, ExpertuneError, FineTuningNotSupportedError, UsageError
from ..files import sha256
from ..modelset.config import ModelSetConfig
from ..modelset.records import TFIDF
from ..modelset.word_pool import WordScorer
from ..optional import require_torch
from ..predict.decision import DecisionScorer
from ..predict.score import LanguageModelScorer, Scorer, VotingScorer
from ..readout.record import ReadoutRecord
from ..readout.scorer import ReadoutScorer
from ..readout.states import BaseStates
from ..torch_engine import open_engine
from .artifact import Artifact
from .batch import RateBatches

Kind = Literal["llama.cpp", "torch", "ollama"]


@dataclass(frozen=True)
class ServedEngine:
    """An engine, the sha256 of the file that it serves, and how many rows are worth having under way at once."""

    engine: Engine
    digest: str
    workers: int


@dataclass(frozen=True)
class ServedModel:
    """The scorer of a product, the sha256 of what it serves, and how many rows are worth having under way at once.

    `rate_batches` is there where the rows are not rated by threads of this process.
    """

    scorer: Scorer
    digest: str
    workers: int
    rate_batches: RateBatches | None = None


@contextmanager
def serve(
    product: Artifact,
    kind: Kind,
    *,
    model: str | None = None,
    slots: int = 0,
    threads: int | None = None,
    context: int = 0,
    allow_remote: bool = False,
    votes: bool = False,
) -> Iterator[ServedModel]:
    """Open the engine; of a model set with several members the one that rates (`votes`: all that it has).

    `model` is a name in Ollama, `slots` the requests sent at once, `context` tokens (0: as judged).

    Raises UsageError where another file than the judged one would answer, or with other prompts than it was tuned
    with, or torch is needed and not installed; EngineError where it cannot be served.
    """
    if product.kind == "readout" and kind == "ollama":
        raise UsageError(f"{product.folder}: Ollama gives no hidden states; leave out --engine, or add --product tuned")
    if product.readout is not None:
        require_torch("rating by the readout (--product tuned does without)")
    config = product.model_set
    wanted = [product] if config is None else _members(product, config, votes)
    options = (slots, threads)
    with ExitStack() as stack:
        found: list[ServedEngine] = []
        server = _open_server(stack, kind, wanted, allow_remote)
        for each in wanted:
            name, room = model if each.model_name == product.model_name else None, context or each.context
            if kind == "ollama" and server is not None:
                served = _by_ollama(each, server, name, *options, room)
            else:
                # the readout only has it write the prompts; a decision model is asked by its own template
                by = "llama.cpp" if product.readout is not None or each.question is not None else kind
                settings = make_config({"engine": by, "threads": threads})
                served = _by_file(each, server, name, slots, settings, room)
            stack.enter_context(contextlib.closing(served.engine))
            found.append(served)
        scorers = {each.model_name: _scorer(each, served.engine) for each, served in zip(wanted, found, strict=True)}
        if product.readout is not None:
            scorer = _readout_scorer(product, product.readout, found[0], threads)
            yield ServedModel(scorer, found[0].digest, scorer.slots)
        elif config is None:
            yield ServedModel(scorers[product.model_name], found[0].digest, found[0].workers)
        else:
            digest = hashlib.sha256("\n".join(sorted(served.digest for served in found)).encode()).hexdigest()
            workers = min((served.workers for served in found), default=1)
            yield ServedModel(_voting(config, scorers, product.scale.labels), digest, workers)


def _scorer(product: Artifact, engine: Engine) -> Scorer:
    """By the decision interface where the product was judged by it, else by words or codes."""
    if product.question is None:
        return LanguageModelScorer(engine, product.messages, product.scale, product.scoring)
    assert isinstance(engine, LlamaCppEngine)  # _by_ollama has refused it
    return DecisionScorer(engine, product.question)


def _readout_scorer(
    product: Artifact, readout: ReadoutRecord, served: ServedEngine, threads: int | None
) -> ReadoutScorer:
    """The readout on the base's file, which the engine tokenizes for. Raises EngineError."""
    assert isinstance(served.engine, LlamaCppEngine)
    try:
        base = BaseStates(served.engine.model, make_config({"threads": threads}), readout.depths)
    except FineTuningNotSupportedError as error:
        raise EngineError(str(error)) from None
    return ReadoutScorer(served.engine, product.messages, product.scale, readout, base)


def _open_server(stack: ExitStack, kind: Kind, wanted: list[Artifact], allow_remote: bool) -> OllamaServer | None:
    """The server where it serves, or where it knows the models' files or prompts."""
    if kind == "ollama" and wanted:
        return stack.enter_context(OllamaServer(allow_remote=allow_remote))
    server = running_server(allow_remote=allow_remote) if any(map(_needs_server, wanted)) else None
    return stack.enter_context(server) if server is not None else None


def _members(product: Artifact, config: ModelSetConfig, votes: bool) -> list[Artifact]:
    """The language model that rates, or with `votes` every one, each as a product of its own."""
    return [
        replace(
            product,
            model_name=each.name,
            sha256=each.digest,
            context=each.asking.decoding.num_ctx if each.asking else product.context,
            messages=partial(config.messages, model=each.name),
            model_set=None,
            question=config.question() if each.decision else None,
        )
        for each in config.models
        if votes or each.name == config.rater
    ]


def _voting(config: ModelSetConfig, models: Mapping[str, Scorer], labels: Sequence[str]) -> VotingScorer:
    """The set's members; TF-IDF costs nothing, so it always votes."""
    members = dict(models)
    if config.tfidf is not None:
        members[TFIDF] = WordScorer(config.tfidf, labels)
    return VotingScorer(config.rater, members, labels, f"rated by {config.rater}: {config.rule.reason}")


# --- Ollama ---


def _by_ollama(
    product: Artifact, server: OllamaServer, model: str | None, slots: int, threads: int | None, context: int
) -> ServedEngine:
    if product.question is not None:
        raise UsageError(f"{product.model_name}: rates as a decision model, by llama.cpp only; leave out --engine")
    name = model or (product.registered if product.kind == "tuned" else product.model_name)
    if name is None:
        raise UsageError(
            f"{product.folder}: its model is not registered with Ollama; register it with expertune register, "
            "or name it with --model"
        )
    digest = _served_digest(server, name)
    if product.sha256 is not None and digest not in (product.sha256, product.served):
        what = (
            "the tuned file that was judged" if product.kind == "tuned" else "the file that the model set was made for"
        )
        raise UsageError(
            f"{name}: Ollama serves another file (sha256 {digest[:12]}…) than {what} ({product.sha256[:12]}…); "
            "register it anew, or choose another --model"
        )
    file = product.file or _local_file(name, server)
    engine = OllamaEngine(server, name, context=context, file=file, threads=threads)
    # no more than the server computes at once: rows that take turns would push each other's prompt out of its cache
    return ServedEngine(engine, digest, slots or engine.slots)


def _served_digest(server: OllamaServer, name: str) -> str:
    found = model.served_digest(model.shown(name, server.show(name)))
    if found is None:
        raise UsageError(f"{name}: Ollama does not say which file it serves under this name; choose another --model")
    return found


def _local_file(name: str, server: OllamaServer) -> Path | None:
    """The base's file where it can be read here: its tokenizer makes the scores exact."""
    with contextlib.suppress(ExpertuneError):
        return locate(name, server).path
    return None


# --- a file: llama.cpp or torch ---


def _needs_server(product: Artifact) -> bool:
    return _rendered_by_server(product) or (product.file is None and not Path(product.model_name).is_file())


def _rendered_by_server(product: Artifact) -> bool:
    return product.prompts_by_server and product.question is None  # a decision model's template is in its file


def _by_file(
    product: Artifact, server: OllamaServer | None, model: str | None, slots: int, config: Config, context: int
) -> ServedEngine:
    if _rendered_by_server(product) and server is None:
        raise UsageError(
            f"{product.folder}: its prompts were written by Ollama, and no server answers; start it (`ollama serve`), "
            "so that the model is asked as it was taught"
        )
    file, digest = product.file, product.sha256
    if file is None:
        file = locate(model or product.model_name, server).path
        digest = sha256(file)
        if product.sha256 is not None and digest != product.sha256:
            raise UsageError(
                f"{product.model_name}: no longer the file that the {product.kind.replace('-', ' ')} was made for (its "
                "sha256 differs); run expertune tune again, or name that file with --model"
            )
    renderer = _renderer(product, server, context) if _rendered_by_server(product) and server is not None else None
    engine = open_engine(file, config, context=context, slots=slots, renderer=renderer)
    # one more than its slots, which keep to their row: it is rendered and tokenised while the others are computed
    return ServedEngine(engine, digest or sha256(file), engine.slots + 1)


def _renderer(product: Artifact, server: OllamaServer, context: int) -> OllamaRenderer:
    """The registered model's prompts (they were proven to be those of the training), else the base's."""
    held = [name for name in (product.registered, product.model_name) if name is not None and server.holds(name)]
    if not held:
        raise UsageError(
            f"{product.model_name}: Ollama at {server.url} has neither this base nor the registered model, one of "
            "which must write the prompts; pull it, or register the run with expertune register"
        )
    return OllamaRenderer(server, held[0], context=context)
