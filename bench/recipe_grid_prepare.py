"""Write what bench/recipe_grid.py trains on: records as tokens, splits, teachers, and a model with those tokens alone.

The folder is as confidential as the ratings: tokens can be read. The model has only the rows of its embedding that are
in use, so that it travels and trains fast; its loss over the vocabulary is one over those tokens.

Axes: R record · K label · F feature.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from runs import Entry
from sets import RatingSet, find_model, find_set

from expertune.config import Config, make_config, with_changes
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.evaluate.baselines import tfidf
from expertune.files import write_text
from expertune.model.states import SharedTokens
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.ratings.scale import RatingScale
from expertune.ratings.schema import Example
from expertune.readout.states import BaseStates
from expertune.stats.folds import FOLDS, group_folds
from expertune.train.encode import candidates, encode

SEEDS = (42, 43, 44)
HELD_OUT = 0.25
LONGEST, CONTEXT = 2048, 2560
LEAD = "Code:"  # the code branch answers "Code: A" to a prompt that lists the codes
STATES, INVERSE_STRENGTH = 0.5, 3e-3  # the readout: weight of the states' log-probabilities, and C of their regression
FLOOR = 1e-4
ALWAYS = 300  # the first tokens of the vocabulary stay: control tokens and bytes
TOKENS = ("prompt", "answer", "code_prompt")


@dataclass(frozen=True)
class Loaded:
    """A rating set as a run with some seed divides it."""

    files: RatingSet
    config: Config

    def dataset(self, seed: int) -> Dataset:
        mapping = str(self.files.mapping) if self.files.mapping else None
        return load_dataset(self.files.csv, mapping, self.files.topic, with_changes(self.config, seed=seed))


def prepare(models: Sequence[str], model_folder: Path | None, names: Sequence[str], data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        path, found = find_model(model, model_folder), dict[str, Entry]()
        for name in names:
            found[name] = prepared(path, Loaded(find_set(name, data), make_config({"seed": SEEDS[0]})))
            print(model, name, len(found[name]["rows"]), "records", flush=True)
        used = in_use(found.values())
        write_text(folder / f"{model}.json", json.dumps(renumbered(found, used)))
        prune(path, folder / f"{model}.gguf", used)


# --- records as tokens ---


def prepared(path: Path, loaded: Loaded) -> Entry:
    dataset = loaded.dataset(SEEDS[0])
    found = tokenised(path, dataset, loaded.config)
    prompts = [row["prompt"] for row in found["rows"]]
    states_RF = features(path, loaded.config, prompts)
    by_id = {row["id"]: (row["label"], states_R) for row, states_R in zip(found["rows"], states_RF, strict=True)}
    return {**found, "splits": {str(seed): divided(loaded.dataset(seed), seed, by_id) for seed in SEEDS}}


def tokenised(path: Path, dataset: Dataset, config: Config) -> Entry:
    """All records, by the engine that serves the model; longer ones are left out."""
    examples = [example for part in dataset.examples.parts().values() for example in part]
    with LlamaCppEngine(path, context=CONTEXT, threads=config.threads) as engine:
        rows, answers = encode(engine, examples, dataset.scale), candidates(engine, examples[0], dataset.scale)
        prompts = [engine.render(with_codes(example, dataset.scale)) for example in examples]
        codes = [engine.continuation(prompts[0], f"{LEAD} {code(at)}") for at in range(len(dataset.scale.labels))]
        code_prompts = [engine.tokenize(prompt) for prompt in prompts]
    if any(each[:-1] != codes[0][:-1] for each in codes):
        raise ValueError(f"{path.name}: the codes are not one token each")
    return {
        "rows": [
            {"id": row.id, "label": row.label, "prompt": row.prompt, "answer": row.answer, "code_prompt": code_prompt}
            for row, code_prompt in zip(rows, code_prompts, strict=True)
            if row.length <= LONGEST
        ],
        "shared": answers.shared,
        "own": answers.own,
        "lead": codes[0][:-1],
        "codes": [each[-1] for each in codes],
    }


def with_codes(example: Example, scale: RatingScale) -> list[Any]:
    """The messages, the first one with a code for each label at its end."""
    listed = "; ".join(f"{code(at)} = {label}" for at, label in enumerate(scale.labels))
    messages = [dict(message) for message in example.messages]
    messages[0]["content"] += f" Codes: {listed}."
    return messages


def code(label: int) -> str:
    return chr(ord("A") + label)


# --- split and teachers ---


def divided(dataset: Dataset, seed: int, by_id: dict[str, tuple[int, np.ndarray]]) -> Entry:
    """Ids by part, and each teacher's probabilities: out of fold on the training records, by all of them elsewhere."""
    groups, parts = dataset.split.groups, dataset.split.parts()
    rows = [row for part in ("train", "dev") for row in parts[part] if row.id in by_id]
    names = sorted({groups[row.id] for row in rows})
    random.Random(seed).shuffle(names)
    held = set(names[: round(HELD_OUT * len(names))])
    train = [row for row in rows if groups[row.id] not in held]
    others = {
        "validation": [row for row in rows if groups[row.id] in held],
        "test": [row for row in parts["test"] if row.id in by_id],
    }

    def words(fit: Sequence[Any], some: Sequence[Any]) -> np.ndarray:
        return np.array([each.probabilities for each in tfidf(fit, some, dataset.scale, seed)])

    folds = group_folds([groups[row.id] for row in train], seed)
    tfidf_shares = {part: words(train, some) for part, some in others.items()}
    tfidf_shares["train"] = out_of_fold(train, folds, words)
    labels = len(dataset.scale.labels)

    def states(fit: Sequence[Any], some: Sequence[Any]) -> np.ndarray:
        return by_states([by_id[row.id] for row in fit], [by_id[row.id][1] for row in some], labels)

    # these folds do not keep groups together: so it was when the results were made
    mixed = np.random.default_rng(seed).permutation(len(train)) % FOLDS
    log_states = {part: states(train, some) for part, some in others.items()}
    log_states["train"] = out_of_fold(train, mixed, states)
    return {
        **{part: [row.id for row in some] for part, some in {"train": train, **others}.items()},
        "tfidf": {part: shares_RK.tolist() for part, shares_RK in tfidf_shares.items()},
        "fused": {part: fused(log_states[part], shares_RK).tolist() for part, shares_RK in tfidf_shares.items()},
    }


def out_of_fold(
    rows: Sequence[Any], folds: np.ndarray, rate: Callable[[Sequence[Any], Sequence[Any]], np.ndarray]
) -> np.ndarray:
    """Each row rated by what was fitted to the other folds."""
    found: dict[int, np.ndarray] = {}
    for fold in range(FOLDS):
        fit = [row for row, own in zip(rows, folds, strict=True) if own != fold]
        at = [place for place, own in enumerate(folds) if own == fold]
        found.update(zip(at, rate(fit, [rows[place] for place in at]), strict=True))
    return np.array([found[at] for at in range(len(rows))])


def features(path: Path, config: Config, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean and standard deviation of the hidden states after two thirds of the blocks, (R, F)."""
    depths = BaseStates(path, config)
    states = depths.of(prompts, SharedTokens.of(prompts))[:, -1]
    return states.reshape(len(prompts), -1)


def by_states(fit: Sequence[tuple[int, np.ndarray]], states: Sequence[np.ndarray], labels: int) -> np.ndarray:
    """Log-probabilities of a logistic regression on standardised states, (R, K)."""
    from sklearn.linear_model import LogisticRegression

    x_RF = np.stack([states_F for _, states_F in fit])
    mean_F, scale_F = x_RF.mean(0), x_RF.std(0) + 1e-6
    model = LogisticRegression(C=INVERSE_STRENGTH, max_iter=500, tol=1e-3)
    model.fit((x_RF - mean_F) / scale_F, [label for label, _ in fit])
    shares_RK = np.full((len(states), labels), FLOOR)
    shares_RK[:, model.classes_] = model.predict_proba((np.stack(states) - mean_F) / scale_F)
    return np.log(shares_RK / shares_RK.sum(1, keepdims=True))


def fused(log_states_RK: np.ndarray, tfidf_RK: np.ndarray) -> np.ndarray:
    """Probabilities of both together."""
    log_RK = STATES * log_states_RK + np.log(np.maximum(tfidf_RK, FLOOR))
    return np.exp(log_RK - np.logaddexp.reduce(log_RK, axis=1, keepdims=True))


# --- the tokens in use ---


def sequences(found: Entry) -> Iterator[Sequence[int]]:
    for row in found["rows"]:
        yield from (row[name] for name in TOKENS)
    yield from (found["shared"], found["lead"], found["codes"], *found["own"])


def in_use(sets: Iterable[Entry]) -> list[int]:
    return sorted({*range(ALWAYS), *(token for found in sets for some in sequences(found) for token in some)})


def renumbered(sets: dict[str, Entry], used: Sequence[int]) -> dict[str, Entry]:
    """The same sets with each token as its place in `used`."""
    place = {token: at for at, token in enumerate(used)}

    def of(some: Sequence[int]) -> list[int]:
        return [place[token] for token in some]

    return {
        name: {
            **found,
            "rows": [{**row, **{each: of(row[each]) for each in TOKENS}} for row in found["rows"]],
            "own": [of(own) for own in found["own"]],
            **{each: of(found[each]) for each in ("shared", "lead", "codes")},
        }
        for name, found in sets.items()
    }


def prune(source: Path, target: Path, used: Sequence[int]) -> None:
    """Copy a GGUF with these rows of its embedding and output matrix alone. It is for training: no engine reads it."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "tokenizer.")) or key == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    writer.add_array("tokenizer.ggml.tokens", [f"t{token}" for token in used])
    writer.add_string("tokenizer.ggml.model", "gpt2")
    for tensor in reader.tensors:
        whole = tensor.name not in ("token_embd.weight", "output.weight")
        kept = tensor.data if whole else tensor.data[list(used)]
        writer.add_tensor(tensor.name, np.ascontiguousarray(kept), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
