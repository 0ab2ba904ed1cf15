"""Compare a tuned file as a running Ollama serves it with the same file in the embedded engine.

    OLLAMA_HOST=127.0.0.1:11434 python bench/ollama_agreement.py OUTDIR --name MODEL [--threads 1] [--rows 100]

OUTDIR is the folder of a finished run, MODEL its tuned file in Ollama (`--register MODEL`, or by hand `ollama create
MODEL -f OUTDIR/Modelfile`). Every record kept back for testing is rated four ways from the same prompt: by the embedded
engine, by `expertune rate`'s way through Ollama, and by the label that a client of Ollama gets from /api/chat, with the
answer's JSON schema as `format` and without. Prints a table for docs/ollama.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from expertune.engine.llama_cpp.engine import LlamaCppEngine  # noqa: E402
from expertune.engine.ollama import model  # noqa: E402
from expertune.engine.ollama.engine import OllamaEngine  # noqa: E402
from expertune.engine.ollama.render import OllamaRenderer  # noqa: E402
from expertune.engine.ollama.server import OllamaServer  # noqa: E402
from expertune.errors import ExpertuneError, UsageError  # noqa: E402
from expertune.files import sha256  # noqa: E402
from expertune.modelset.config import output_schema  # noqa: E402
from expertune.outputs import MODEL  # noqa: E402
from expertune.predict.score import rate_examples  # noqa: E402
from expertune.rate.artifact import ANSWER_ROOM  # noqa: E402
from expertune.ratings.scale import RatingScale, parse_answer  # noqa: E402
from expertune.ratings.schema import Example  # noqa: E402
from expertune.record import read_record  # noqa: E402
from expertune.register.folder import load_dataset_again  # noqa: E402

ANSWER_TOKENS = 160
NEAR = 0.1  # a record whose two likeliest labels are closer than this in the embedded engine is near chance


@dataclass(frozen=True)
class Comparison:
    """The same N records, rated four ways. `*_N` arrays hold a label's index (-1: no label), `*_NL` probabilities.

    `exact` records were scored by Ollama on the very tokens that the file was tuned on. `same_file` says that Ollama
    serves the run's file byte for byte.
    """

    ollama: str
    same_file: bool
    exact: int
    expert_N: np.ndarray
    engine_NL: np.ndarray
    ollama_NL: np.ndarray
    chat_N: np.ndarray
    plain_N: np.ndarray

    @property
    def gap_N(self) -> np.ndarray:
        """Mean over the labels of |probability in Ollama - probability in the engine|, for each record."""
        return np.abs(self.ollama_NL - self.engine_NL).mean(axis=1)

    @property
    def margin_N(self) -> np.ndarray:
        """The likeliest label's probability less the second one's, in the embedded engine."""
        ordered_NL = np.sort(self.engine_NL, axis=1)
        return ordered_NL[:, -1] - ordered_NL[:, -2]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Each way's label for each record."""
        return {
            "embedded engine": self.engine_NL.argmax(axis=1),
            "Ollama, probabilities": self.ollama_NL.argmax(axis=1),
            "Ollama, chat with the schema": self.chat_N,
            "Ollama, plain chat": self.plain_N,
        }


def compare(
    server: OllamaServer, folder: Path, name: str, *, threads: int = 0, rows: int = 0, data: Path | None = None
) -> Comparison:
    """Rate the run's test records (the first `rows`, 0: all). Raises what the engines and the run's folder raise."""
    record = read_record(folder)
    prepared = load_dataset_again(folder, record, data)
    examples, scale = prepared.examples.test[: rows or None], prepared.scale
    file, context = folder / MODEL, record.config.max_tokens + ANSWER_ROOM
    if not file.is_file():
        raise UsageError(f"{file}: not there; this run made no tuned file to compare")
    served = model.served_digest(model.shown(name, server.show(name)))
    prompts = OllamaRenderer(server, name, context=context)  # for both: what differs then is the engine
    with LlamaCppEngine(file, context=context, threads=threads, renderer=prompts) as engine:
        engine_NL = _probabilities(engine, examples, scale)
    with OllamaEngine(server, name, context=context, file=file, threads=threads) as engine:
        by_ollama = rate_examples(engine, examples, scale)
        chat = [_chat_label(engine, example, scale) for example in examples]
    plain = [_plain_label(server, name, example, context, scale) for example in examples]
    expert = [scale.labels.index(example.label) for example in examples]
    return Comparison(
        ollama=server.version_text,
        same_file=served == sha256(file),
        exact=sum(each.exact for each in by_ollama),
        expert_N=np.array(expert),
        engine_NL=engine_NL,
        ollama_NL=np.array([each.probabilities for each in by_ollama]),
        chat_N=np.array(chat),
        plain_N=np.array(plain),
    )


def _probabilities(engine: Any, examples: Sequence[Example], scale: RatingScale) -> np.ndarray:
    return np.array([each.probabilities for each in rate_examples(engine, examples, scale)])


def _chat_label(engine: OllamaEngine, example: Example, scale: RatingScale) -> int:
    """The label of the answer to the training's messages, held to the answer's schema."""
    answer = engine.chat(example.messages, schema=output_schema(list(scale.labels)), max_tokens=ANSWER_TOKENS)
    return _index(answer.text, scale)


def _plain_label(server: OllamaServer, name: str, example: Example, context: int, scale: RatingScale) -> int:
    """The label that a simple client gets: the record alone as the user's message, no schema, no other field of ours.

    The model itself brings the system text; temperature 0, since a sampled answer would differ each time.
    """
    body: Mapping[str, Any] = {
        "model": name,
        "messages": [dict(message) for message in example.messages if message["role"] == "user"],
        "stream": False,
        "options": {"temperature": 0, "num_ctx": context, "num_predict": ANSWER_TOKENS},
    }
    return _index(server.ask("POST", "/api/chat", body)["message"]["content"], scale)


def _index(answer: str, scale: RatingScale) -> int:
    state, value, _ = parse_answer(answer, scale)
    return scale.values.index(value) if state == "rated" and value is not None else -1


def table(found: Comparison) -> str:
    """The comparison as Markdown: each way beside the embedded engine and beside the expert."""
    lines = [
        "| way | label as the embedded engine | as Ollama's probabilities | as the expert | no label |",
        "|---|---|---|---|---|",
    ]
    reference_N, ollama_N = found.labels["embedded engine"], found.labels["Ollama, probabilities"]
    for way, label_N in found.labels.items():
        shares = (label_N == reference_N, label_N == ollama_N, label_N == found.expert_N, label_N < 0)
        lines.append(" | ".join([f"| {way}", *(f"{np.mean(share):.0%}" for share in shares)]) + " |")
    flipped = ollama_N != reference_N
    near = found.margin_N < NEAR
    lines += [
        "",
        f"{len(reference_N)} records, Ollama {found.ollama}, {'the same file' if found.same_file else 'ANOTHER FILE'} "
        f"in both, {found.exact} records scored on the very tokens of the training.",
        f"Probabilities: mean |Δp| over labels and records {found.gap_N.mean():.4f}, largest of one label "
        f"{np.abs(found.ollama_NL - found.engine_NL).max():.3f}.",
        f"Labels that differ: {flipped.sum()}, of which {(flipped & near).sum()} near chance (the two likeliest labels "
        f"less than {NEAR} apart: {near.sum()} of all records); largest margin of one that differs: "
        f"{found.margin_N[flipped].max(initial=0.0):.3f}.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTDIR", help="output folder of a finished run")
    parser.add_argument("--name", required=True, help="the tuned file's name in Ollama")
    parser.add_argument("--input", type=Path, help="the run's rows, if they have moved")
    parser.add_argument("--rows", type=int, default=0, help="only the first of the test records; 0 is all")
    parser.add_argument("--threads", type=int, default=0, help="of the embedded engine; 0 is every core")
    chosen = parser.parse_args()
    try:
        with OllamaServer() as server:
            found = compare(
                server, chosen.folder, chosen.name, threads=chosen.threads, rows=chosen.rows, data=chosen.input
            )
    except ExpertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
