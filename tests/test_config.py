"""A setting exists once and reaches everything: the flag, the YAML key, the keyword and its consumer."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from expertune.cli import main
from expertune.config import Config, as_dict, make_config
from expertune.errors import UsageError
from expertune.fine_tuner import FineTuner

ROOT = Path(__file__).resolve().parents[1]
SOURCE = str(Path(main.__file__).parents[1])


@pytest.mark.slow
def test_every_setting_is_read_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run with the default settings: each field is read by some module other than the one that defines it."""
    names, read = {setting.name for setting in fields(Config)}, set()
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
        rows, str(ROOT / "examples/base.gguf"), mapping, "respiratory infections", tmp_path, epochs=1
    )
    assert success
    assert names - read == set()


def test_every_setting_is_a_flag_with_its_default_in_the_help() -> None:
    command = typer.main.get_command(main.app).commands["tune"]  # pyright: ignore[reportAttributeAccessIssue]
    options = {option: parameter for parameter in command.params for option in parameter.opts}
    for setting in fields(Config):
        option = options[f"--{setting.name.replace('_', '-')}"]
        assert str(setting.default) in option.help
        assert option.default is None  # "not given" must not overrule a --config file


def test_settings_travel_through_a_yaml_file(tmp_path: Path) -> None:
    from expertune.outputs import write_config

    config = make_config({"epochs": 7, "export_type": "Q6_K", "seed": 3})
    write_config(tmp_path / "run.yaml", config, {"input": "rows.csv", "model": "m", "topics": "t"})
    run, settings = main._merged(tmp_path / "run.yaml", {"input": None, "model": "other", "topics": None}, {"rank": 4})
    assert run == {"input": "rows.csv", "model": "other", "topics": "t"}
    assert make_config(settings) == make_config({**as_dict(config), "rank": 4})


@given(
    st.sampled_from([setting for setting in fields(Config) if setting.metadata["high"] is not None]),
    st.floats(0.001, 1e6),
)
def test_what_is_out_of_range_is_refused_by_name(setting, beyond: float) -> None:
    with pytest.raises(UsageError, match=setting.name):
        make_config({setting.name: setting.metadata["high"] + max(1, round(beyond))})


@pytest.mark.parametrize("value", ["many", None, float("nan"), True, [1]])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="epochs"):
        make_config({"epochs": value})


def test_numbers_may_come_as_text_or_as_whole_floats() -> None:
    assert make_config({"rank": "16", "batch_size": 4.0}) == Config()
    assert make_config({"epochs": "3", "learning_rate": "1e-4"}) == Config(epochs=3.0, learning_rate=1e-4)
    with pytest.raises(UsageError, match="whole number"):
        make_config({"batch_size": 2.5})


@pytest.mark.parametrize("name", ["epochs", "learning_rate"])
def test_what_may_be_auto_is_auto_or_a_number_in_range(name: str) -> None:
    assert getattr(make_config({name: "auto"}), name) == "auto" == getattr(Config(), name)
    assert getattr(make_config({name: 0.5}), name) == 0.5
    for wrong in ("automatic", "", -1, 1e9):
        with pytest.raises(UsageError, match=name):
            make_config({name: wrong})
    with pytest.raises(UsageError, match="rank"):
        make_config({"rank": "auto"})


def test_docstrings_stand_where_users_look() -> None:
    for name, member in inspect.getmembers(FineTuner, inspect.isfunction):
        assert name.startswith("_") or re.search(r"\S", member.__doc__ or ""), name
