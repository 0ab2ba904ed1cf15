"""A setting exists once and reaches everything: the flag, the YAML key, the keyword and its consumer."""

from __future__ import annotations

import inspect
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from expertune.cli import main
from expertune.cli import tune as tune_command
from expertune.config import (
    Config,
    Setting,
    as_dict,
    make_config,
    settings,
    with_changes,
)
from expertune.errors import RenamedSettingWarning, UsageError
from expertune.fine_tuner import FineTuner
from expertune.record import read_record
from expertune.renamed_settings import REMOVED, RENAMED, RENAMED_VALUES, current_settings
from records import plain_record

SOURCE = Path(main.__file__).parents[1]
# The settings of a finished run of version 0.1.0, as it wrote them
OF_0_1_0 = {
    "seed": 42, "dev_share": 0.1, "test_share": 0.2, "near_duplicate": 0.9, "max_tokens": 2048, "long_rows": "error",
    "rank": 16, "alpha": 32.0, "targets": "all", "epochs": 2.0, "learning_rate": 0.002, "batch_size": 4,
    "accumulate": 3, "warmup": 0.05, "weight_decay": 0.0, "clip": 0.5, "class_weight": "auto",
    "logit_adjustment": 0.5, "decision_weight": 20.0, "rationale_weight": 1.0, "dev_looks": 3, "patience": 5,
    "checkpoint_seconds": 120.0, "base_memory": "cached", "precision": "fp32", "device": "cpu", "threads": 0,
    "export_type": "auto", "keep_delta": 0.9, "agreement": 0.98, "probability_gap": 0.03, "approach": "auto",
    "models": "a,b", "set_seconds": 60.0, "redact": False, "bootstrap": 500, "confidence": 0.9,
    "strata": "Age, Sex", "prevalence": 0.0,
}  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
SOURCE = str(Path(main.__file__).parents[1])


def as_now() -> Config:
    return Config(
        batch_size=4,
        gradient_accumulation_steps=3,
        max_grad_norm=0.5,
        evals_per_epoch=3,
        early_stopping_patience=5,
        weight_cache="dequantized",
        compute_dtype="fp32",
        device="cpu",
        epochs=2.0,
        learning_rate=0.002,
        min_label_agreement=0.98,
        models=("a", "b"),
        model_set_budget_seconds=60.0,
        bootstrap_resamples=500,
        confidence_level=0.9,
        subgroups=("Age", "Sex"),
    )


def options() -> dict[str, Any]:
    command = typer.main.get_command(main.app).commands["tune"]  # pyright: ignore[reportAttributeAccessIssue]
    return {option: parameter for parameter in command.params for option in parameter.opts}


@pytest.mark.slow
def test_every_setting_is_a_flag_with_its_default_in_the_help() -> None:
    for setting in settings():
        option = options()[f"--{setting.name.replace('_', '-')}"]
        assert setting.default in (None, ()) or str(setting.default) in (option.help or "")
        assert option.default is None and not option.hidden  # "not given" must not overrule a --config file


def test_ranges_are_whole_in_the_help() -> None:
    assert "From 0 to 2147483647." in (options()["--seed"].help or "")
    assert "From 1e-07 to 1." in (options()["--learning-rate"].help or "")
    assert "From 64 on." in (options()["--max-tokens"].help or "")


def test_settings_travel_through_a_yaml_file(tmp_path: Path) -> None:
    from expertune.outputs import write_config

    config = make_config({"epochs": 7, "export_type": "Q6_K", "seed": 3, "subgroups": "Age,Sex", "threads": 2})
    write_config(tmp_path / "run.yaml", config, {"input": "rows.csv", "model": "m", "topics": "t"})
    inputs, merged = tune_command._merged(
        tmp_path / "run.yaml", {"input": None, "model": "other", "topics": None}, {"rank": 4}
    )
    assert inputs == ["rows.csv", "other", "t"]
    assert make_config(merged) == with_changes(config, rank=4) == make_config({**as_dict(config), "rank": 4})
    assert make_config(json.loads(json.dumps(as_dict(config)))) == config


@given(st.sampled_from([setting for setting in settings() if setting.high is not None]), st.floats(0.001, 1e6))
def test_what_is_out_of_range_is_refused_by_name(setting: Setting, beyond: float) -> None:
    with pytest.raises(UsageError, match=f"^{setting.name}: .* is out of range"):
        make_config({setting.name: (setting.high or 0) + max(1, round(beyond))})


@pytest.mark.parametrize("value", ["many", None, float("nan"), float("inf"), True, [1]])
@pytest.mark.parametrize("name", ["epochs", "alpha", "rank"])
def test_what_is_not_a_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name}: .*number"):
        make_config({name: value})


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"learning_rate": 5.0}, "learning_rate: 5.0 is out of range (from 1e-07 to 1)"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds: -1 is out of range (from 0 on)"),
        ({"learning_rat": 1}, "learning_rat: no such setting; did you mean learning_rate?"),
        ({"acumulate": 1}, "acumulate: no such setting; did you mean gradient_accumulation_steps?"),
        ({"zzz": 1}, "zzz: no such setting"),
        ({"device": "tpu"}, "device: 'tpu' is not one of auto, cpu, cuda, mps"),
        ({"batch_size": 2.5}, "batch_size: 2.5 is not a whole number"),
        ({"redact": "perhaps"}, "redact: 'perhaps' is neither true nor false"),
        ({"subgroups": 3}, "subgroups: 3 is not a list of names"),
        ({"epochs": "soon"}, "epochs: 'soon' is neither a number nor auto"),
    ],
)
def test_errors_are_one_line_in_our_words(values: dict[str, object], line: str) -> None:
    for make in (make_config, lambda given: Config(**given)):
        with pytest.raises(UsageError) as error:
            make(values)
        assert str(error.value) == line


def test_shares_that_leave_too_little_to_train_on_are_refused() -> None:
    with pytest.raises(UsageError, match=r"dev_share \+ test_share"):
        make_config({"dev_share": 0.4, "test_share": 0.4})


def test_numbers_may_come_as_text_or_as_whole_floats() -> None:
    assert make_config({"rank": "16", "batch_size": 8.0, "seed": np.int64(42)}) == Config()
    assert make_config({"epochs": "3", "learning_rate": "1e-4"}) == Config(epochs=3.0, learning_rate=1e-4)


def test_names_may_come_as_a_list_or_separated_by_commas() -> None:
    assert make_config({"subgroups": " Age,,Sex "}).subgroups == ("Age", "Sex")
    assert make_config({"models": ["a", "b"]}).models == ("a", "b") == make_config({"models": "a,b"}).models
    assert make_config({"models": ""}).models == ()


@pytest.mark.parametrize("name", ["epochs", "learning_rate"])
def test_what_may_be_auto_is_auto_or_a_number_in_range(name: str) -> None:
    assert getattr(make_config({name: "auto"}), name) == "auto" == getattr(Config(), name)
    assert getattr(make_config({name: 0.5}), name) == 0.5
    for wrong in ("automatic", "", -1, 1e9):
        with pytest.raises(UsageError, match=name):
            make_config({name: wrong})
    with pytest.raises(UsageError, match="rank"):
        make_config({"rank": "auto"})


def test_layers_are_a_number_or_one_of_two_words() -> None:
    assert [make_config({"layers": each}).layers for each in ("auto", "all", "10", 10)] == ["auto", "all", 10, 10]
    for wrong, message in (
        ("most", "layers: 'most' is neither a number nor auto or all"),
        (0, r"layers: 0 is out of range \(from 1 on\)"),
        (2.5, "layers: 2.5 is not a whole number"),
        (True, "layers: True is not a number"),
    ):
        with pytest.raises(UsageError, match=message):
            make_config({"layers": wrong})


def test_a_path_travels_as_text() -> None:
    config = make_config({"unlabelled": Path("a/b.csv")})
    assert as_dict(config)["unlabelled"] == "a/b.csv" and make_config(as_dict(config)) == config
    assert make_config({"unlabelled": "a/b.csv"}) == config and Config().unlabelled is None


def test_a_configuration_does_not_change() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.rank = 2  # pyright: ignore[reportAttributeAccessIssue]
    assert with_changes(config, rank=2).rank == 2 and config == Config() and hash(config) == hash(Config())
    with pytest.raises(UsageError, match="rank"):
        with_changes(config, rank=0)


# --- names of version 0.1.0 ---


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_accepted_with_a_note(old: str) -> None:
    known = {setting.name: setting for setting in settings()}[RENAMED[old]]
    with pytest.warns(RenamedSettingWarning, match=f"^{old} is now called {known.name};"):
        assert make_config({old: known.default}) == Config()


@pytest.mark.parametrize("gone", REMOVED)
def test_a_removed_setting_is_left_out_with_a_note(gone: str) -> None:
    with pytest.warns(RenamedSettingWarning, match=f"^{gone} is no longer a setting"):
        assert make_config({gone: 0.03, "rank": 2}) == Config(rank=2)
    assert options()[f"--{gone.replace('_', '-')}"].hidden


@pytest.mark.parametrize(("name", "old"), [(name, old) for name, values in RENAMED_VALUES.items() for old in values])
def test_an_old_value_is_accepted_with_a_note(name: str, old: object) -> None:
    with pytest.warns(RenamedSettingWarning, match=f"^{name}: {old} is now "):
        assert getattr(make_config({name: old}), name) == RENAMED_VALUES[name][old]


def test_a_setting_is_not_given_by_both_names() -> None:
    with pytest.raises(UsageError, match=r"max_grad_norm: given twice, also by its old name clip"):
        current_settings({"clip": 1.0, "max_grad_norm": 2.0})


def test_the_records_of_an_old_run_load_without_a_note(tmp_path: Path) -> None:
    (tmp_path / "fine_tuning_metadata.json").write_text(json.dumps(plain_record(settings=OF_0_1_0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_record(tmp_path).config == as_now()


def test_an_old_configuration_file_is_taken_and_new_flags_overrule_it(tmp_path: Path) -> None:
    path = tmp_path / "training_config.yaml"
    path.write_text(yaml.safe_dump({"run": {"input": "r", "model": "m", "topics": "t"}, "settings": OF_0_1_0}))
    nothing = {"input": None, "model": None, "topics": None}
    with pytest.warns(RenamedSettingWarning):
        assert make_config(tune_command._merged(path, nothing, {})[1]) == as_now()
    with pytest.warns(RenamedSettingWarning):
        flags = {"gradient_accumulation_steps": 7, "rank": None}
        assert make_config(tune_command._merged(path, nothing, flags)[1]) == with_changes(
            as_now(), gradient_accumulation_steps=7
        )


def test_old_flags_are_hidden_and_accepted(tmp_path: Path) -> None:
    for old in RENAMED:
        assert options()[f"--{old.replace('_', '-')}"].hidden
    rows = tmp_path / "gone.csv"
    flags = ["--base-memory", "cached", "--dev-looks", "1", "--strata", "Age,Sex"]
    with pytest.warns(RenamedSettingWarning) as notes:
        found = CliRunner().invoke(
            main.app,
            ["tune", "--input", str(rows), "--model", "m", "--topics", "t", "--output-dir", str(tmp_path), *flags],
        )
    assert isinstance(found.exception, Exception) and "gone.csv" in str(found.exception)  # the flags were taken
    assert sorted(str(note.message).split(" ")[0] for note in notes) == [
        "base_memory",
        "dev_looks",
        "strata",
        "weight_cache:",
    ]


def test_docstrings_stand_where_users_look() -> None:
    from expertune.fine_tuner import FineTuner

    for name, member in inspect.getmembers(FineTuner, inspect.isfunction):
        assert name.startswith("_") or re.search(r"\S", member.__doc__ or ""), name


@pytest.mark.slow
def test_every_setting_is_read_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One short run with the default settings: each field is read by another module than the one that defines it."""
    names, read = {setting.name for setting in settings()}, set()
    get = Config.__getattribute__

    def noted(config: Config, name: str) -> Any:
        reader = sys._getframe(1).f_code.co_filename
        if name in names and reader.startswith(SOURCE) and Path(reader).name != "config.py":
            read.add(name)
        return get(config, name)

    monkeypatch.setattr(Config, "__getattribute__", noted)
    rows = pd.read_csv(ROOT / "examples/formatted_dataset.csv").head(90)
    mapping = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
    success, _ = FineTuner(quiet=True).process_dataset(
        rows, str(ROOT / "examples/base.gguf"), mapping, "respiratory infections", tmp_path, epochs=1,
        model_set_budget_seconds=3, bootstrap_resamples=100,
    )  # fmt: skip
    assert success
    assert names - read == set()
