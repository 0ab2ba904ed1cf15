from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from expertune.errors import UsageError
from expertune.files import sha256
from expertune.modelset.build import BuildInputs, Recipe, build
from expertune.modelset.config import parse, write
from expertune.predict.uncertainty import Uncertainty
from expertune.rate.artifact import load_product
from expertune.ratings.examples import chat_messages
from expertune.ratings.schema import Rating, Split
from expertune.stats.conformal import fit_conformal
from rate.stub import MAPPING, SCALE, TOPIC, write_run
from records import MODEL_SET, plain_record


def model(folder: Path) -> Path:
    (folder / "some.gguf").write_bytes(b"GGUF model")
    return folder / "some.gguf"


def change(folder: Path, **parts: Any) -> None:
    path = folder / "fine_tuning_metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def model_set(folder: Path, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [
        Rating(str(i), i, f"visit {i} {label}", value, label, "why")
        for i, (label, value) in enumerate([*MAPPING.items()] * 4)
    ]
    split = Split(tuple(rows), (), (), {}, 5)
    inputs = BuildInputs("llama2", split, SCALE, TOPIC, created_at="2026-01-01T00:00:00Z", seed=5)
    write(folder / "model_set_config.json", build(inputs, Recipe("examples")))
    hashes = {"model_set_config.json": sha256(folder / "model_set_config.json"), "base": "b" * 64}
    metadata = plain_record(
        fine_tuning_info=None, export=None, model_set_info=MODEL_SET, provenance={"hashes": hashes}, **more
    )
    (folder / "fine_tuning_metadata.json").write_text(json.dumps(metadata))
    return folder


def test_a_tuned_run(tmp_path: Path) -> None:
    thresholds = Uncertainty(conformal=fit_conformal([(1, 0, 0)] * 9, [0] * 9, SCALE.labels))
    folder = write_run(tmp_path / "run", model(tmp_path), rating=asdict(thresholds))
    found = load_product(folder)
    assert (found.kind, found.file, found.sha256) == (
        "tuned",
        folder / "fine_tuned_model.gguf",
        sha256(folder / "fine_tuned_model.gguf"),
    )
    assert (found.scale.labels, found.scale.values) == (SCALE.labels, SCALE.values)
    assert tuple(found.messages("cough")) == chat_messages("cough", SCALE, TOPIC)
    assert (found.context, found.seed, found.registered, found.prompts_by_server) == (320 + 192, 42, None, False)
    assert found.trust == thresholds
    change(
        folder,
        registration={"name": "mine", "registered": True},
        provenance={
            **json.loads((folder / "fine_tuning_metadata.json").read_text())["provenance"],
            "base": {"path": "base.gguf", "source": "ollama", "prompts_by": "Ollama 0.33.0"},
        },
    )
    assert (load_product(folder).registered, load_product(folder).prompts_by_server) == ("mine", True)
    change(folder, registration={"name": "mine", "registered": False, "reason": "in use"})
    assert load_product(folder).registered is None


def test_a_model_set_with_and_without_its_metadata(tmp_path: Path) -> None:
    folder = model_set(tmp_path / "run")
    found = load_product(folder)
    assert (found.kind, found.file, found.model_name, found.sha256, found.seed) == (
        "model-set",
        None,
        "llama2",
        "b" * 64,
        5,
    )
    asked = found.messages("cough")
    assert asked[0]["role"] == "system" and asked[-1] == {"role": "user", "content": "cough"} and len(asked) > 4
    (folder / "fine_tuning_metadata.json").unlink()
    alone = load_product(folder)
    assert alone.sha256 is None and alone.config_id == found.config_id and alone.trust == Uncertainty()


def test_whatever_decides_a_rating_is_in_the_id(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", model(tmp_path))
    first = load_product(folder).config_id
    assert load_product(folder).config_id == first
    change(folder, seed=7)
    assert load_product(folder).config_id == first
    change(folder, processing_info=plain_record(processing_info={"target_topics": "falls"})["processing_info"])
    second = load_product(folder).config_id
    change(folder, rating_mapping={"Match": 1, "Does Not Match": 0})
    sets = [load_product(model_set(tmp_path / "set")).config_id]
    content = json.loads((tmp_path / "set" / "model_set_config.json").read_text())
    content["few_shot_examples"], content["example_ids"] = content["few_shot_examples"][1:], content["example_ids"][1:]
    write(tmp_path / "set" / "model_set_config.json", parse(content))
    (tmp_path / "set" / "fine_tuning_metadata.json").unlink()
    sets.append(load_product(tmp_path / "set").config_id)
    assert len({first, second, load_product(folder).config_id, *sets}) == 5


def test_another_file_than_the_judged_one_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", model(tmp_path))
    (folder / "fine_tuned_model.gguf").write_bytes(b"GGUF other")
    with pytest.raises(UsageError, match="not the file that was judged"):
        load_product(folder)
    (folder / "fine_tuned_model.gguf").unlink()
    with pytest.raises(UsageError, match="copy the run's whole folder"):
        load_product(folder)
    changed = model_set(tmp_path / "set")
    path = changed / "model_set_config.json"
    path.write_text(path.read_text().replace("respiratory", "digestive"))
    with pytest.raises(UsageError, match="not the file that was judged"):
        load_product(changed)


@pytest.mark.parametrize(
    "damage",
    [
        {"rating_mapping": None},
        {"rating_mapping": {"Match": "x"}},
        {"provenance": {}},
        {"settings": 3},
        {"seed": "x"},
        {"processing_info": []},
        {"fine_tuning_info": {}},
        {"rating": {"conformal": {"labels": []}}},
    ],
)
def test_damaged_metadata_is_one_line(tmp_path: Path, damage: dict[str, Any]) -> None:
    folder = write_run(tmp_path / "run", model(tmp_path))
    change(folder, **damage)
    with pytest.raises(UsageError, match="run expertune tune again") as told:
        load_product(folder)
    assert "\n" not in str(told.value)


def test_a_set_that_rates_by_an_ensemble_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    folder = model_set(tmp_path / "set")
    path = folder / "model_set_config.json"
    content = json.loads(path.read_text())
    content["rule"] = {"kind": "ensemble", "members": ["llama2", "TF-IDF"], "reason": "better"}
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"an ensemble of several models.*run expertune tune again") as caught:
        load_product(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_product(tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "absent", "no such folder"), (tmp_path, "neither a tuned model nor a model set")):
        with pytest.raises(UsageError, match=said):
            load_product(folder)
    for text, said in (("{", "cannot be read"), ("[]", "damaged"), ("{}", "damaged, or of another version")):
        (tmp_path / "fine_tuning_metadata.json").write_text(text)
        with pytest.raises(UsageError, match=said):
            load_product(tmp_path)
    (tmp_path / "fine_tuning_metadata.json").unlink()
    (tmp_path / "model_set_config.json").write_text("{}")
    with pytest.raises(UsageError, match="no version"):
        load_product(tmp_path)
