"""A model on which llama.cpp would abort, or that cannot rate, is refused in one line with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from commands import ROOT, expertune, expertune_here
from expertune.engine.llama_cpp import trial
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError, FineTuningNotSupportedError, ModelFileError
from expertune.gguf.read import GGUFFile
from expertune.model.arch import read_config

ROWS = "tests/data/faults/signs_dropped/rows.csv"
FAR = "127.0.0.1:9"  # no Ollama there
Said = Callable[..., tuple[str, str]]  # what a command prints, and its errors
ABORTS = {
    "a part of each head is rotated": ("qwen2", {"qwen2.rope.dimension_count": 8}, "GGML_ASSERT(n_embd_head == n_rot)"),
    "the same of qwen3": ("qwen3", {"qwen3.rope.dimension_count": 8}, "GGML_ASSERT(n_embd_head == n_rot)"),
    "a context of one token": ("llama", {"llama.context_length": 1}, "failed to add token 0 at index 1"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/expertune/models_that_run.json"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command in this process, without Ollama: what it prints, where it ends with `code`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OLLAMA_HOST", FAR)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, code: int = 0) -> tuple[str, str]:
        ended, found = expertune_here(*arguments), capsys.readouterr()
        assert ended == code, found.err
        return found

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ABORTS)
def test_what_llama_cpp_would_abort_on(tmp_path: Path, name: str) -> None:
    family, extra, assertion = ABORTS[name]
    model = tiny.make(tmp_path / "model.gguf", architecture=family, extra=extra)
    with pytest.raises(EngineError) as caught:
        LlamaCppEngine(model)
    assert "model.gguf: llama.cpp would abort on it: " in str(caught.value) and assertion in str(caught.value)
    assert "\n" not in str(caught.value)
    with GGUFFile(model) as file, pytest.raises(ModelFileError, match="re-export the model"):
        read_config(file)
    listed = expertune("models", "--quick", model, host=FAR)
    assert listed.returncode == 0 and " no " in listed.stdout.splitlines()[1]


def test_a_model_that_ran_is_not_tried_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is another with other weights; one of another shape or with another template is."""
    tries: list[Path] = []
    attempt = trial.attempt
    monkeypatch.setattr(trial, "attempt", lambda launch: (tries.append(Path(launch.model)), attempt(launch))[1])
    template = "{{ messages[0]['content'] }}{{ messages[-1]['content'] }}"
    models = [
        tiny.make(tmp_path / "one.gguf"),
        tiny.make(tmp_path / "weights.gguf", seed=1),
        tiny.make(tmp_path / "template.gguf", chat_template=template),
        tiny.make(tmp_path / "shape.gguf", layers=1),
    ]
    for model in (*models, *models):
        LlamaCppEngine(model).close()
    assert [each.name for each in tries] == ["one.gguf", "template.gguf", "shape.gguf"]
    assert len(json.loads(cache.read_text())) == 3
    cache.write_text("damaged")
    LlamaCppEngine(models[0]).close()
    assert len(tries) == 4


def test_a_template_that_calls_itself_ends_no_process_of_ours(tmp_path: Path, cache: Path) -> None:
    LlamaCppEngine(tiny.make(tmp_path / "one.gguf")).close()  # a model of the same shape is known to run
    template = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(messages[0]['content']) }}"
    with pytest.raises(EngineError, match=r"itself\.gguf: llama\.cpp ") as caught:
        LlamaCppEngine(tiny.make(tmp_path / "itself.gguf", chat_template=template))
    assert "\n" not in str(caught.value)


LONG = {
    "a long loop": "{% for i in range(30000000) %}{% endfor %}{{ messages[-1]['content'] }}",
    "nested loops": "{% for i in range(20000) %}{% for j in range(20000) %}{{ '' }}{% endfor %}{% endfor %}",
    "only with a system message": "{% if messages[0]['role'] == 'system' %}{% for i in range(20000) %}"
    "{% for j in range(20000) %}{% endfor %}{% endfor %}{% endif %}{{ messages[-1]['content'] }}",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG)
def test_a_template_that_takes_long_is_refused(tmp_path: Path, cache: Path, kind: str) -> None:
    with pytest.raises(EngineError, match=r"long\.gguf: llama\.cpp cannot load it: its chat template takes more than"):
        LlamaCppEngine(tiny.make(tmp_path / "long.gguf", chat_template=LONG[kind]))
    assert not cache.exists()


# --- models that cannot rate ---

NOT_GENERATIVE = {
    "an embedding model": {"qwen3.pooling_type": 3},
    "a reranker": {"qwen3.pooling_type": 4},
    "an encoder": {"qwen3.attention.causal": False},
}


@pytest.mark.parametrize("kind", NOT_GENERATIVE)
def test_a_model_that_writes_no_text(tmp_path: Path, kind: str) -> None:
    model = tiny.make(tmp_path / "model.gguf", architecture="qwen3", extra=NOT_GENERATIVE[kind])
    says = f"model.gguf: is {kind}, which cannot rate; choose a chat model"
    with pytest.raises(EngineError, match=says):
        LlamaCppEngine(model)
    with GGUFFile(model) as file, pytest.raises(FineTuningNotSupportedError, match=says):
        read_config(file)


def test_pooling_of_none_is_a_chat_model(tmp_path: Path) -> None:
    extra = {"qwen3.pooling_type": 0, "qwen3.attention.causal": True}
    with GGUFFile(tiny.make(tmp_path / "model.gguf", architecture="qwen3", extra=extra)) as file:
        assert read_config(file).family == "qwen3"


# --- templates ---

ONLY_USER = (
    "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('only user turns are allowed') }}{% endif %}"
    "### Instruction:\n{{ m['content'] }}\n{% endfor %}### Response:\n"
)
NEEDS_TOOLS = "{% if not tools %}{{ raise_exception('tools are required') }}{% endif %}{{ messages[0]['content'] }}"
FIRST_ONLY = "{{ messages[0]['content'] }}\n\n### Response:"
TALK = [{"role": "system", "content": "Rate it."}, {"role": "user", "content": "cough, 3 days"}]


def test_a_template_refuses_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot load it: the chat template refuses it: tools are required"):
        LlamaCppEngine(tiny.make(tmp_path / "tools.gguf", chat_template=NEEDS_TOOLS))
    model = tiny.make(tmp_path / "user.gguf", chat_template=ONLY_USER)
    with (
        LlamaCppEngine(model) as engine,
        pytest.raises(EngineError, match="the chat template refuses it: only user turns"),
    ):
        engine.turn_end()


def test_a_prompt_without_its_record_is_refused(tmp_path: Path) -> None:
    with LlamaCppEngine(tiny.make(tmp_path / "first.gguf", chat_template=FIRST_ONLY)) as engine:
        assert engine.render(TALK[1:]) == "cough, 3 days\n\n### Response:"
        with pytest.raises(EngineError, match="leaves the record out of the prompt") as caught:
            engine.render(TALK)
    assert "cough" not in str(caught.value)


def test_a_template_may_change_the_blanks(tmp_path: Path) -> None:
    template = "{{ messages[-1]['content'] | trim | replace('  ', ' ') | replace('\n', ' ') }}"
    with LlamaCppEngine(tiny.make(tmp_path / "blanks.gguf", chat_template=template)) as engine:
        assert engine.render([{"role": "user", "content": " cough,  3\ndays\n"}]) == "cough, 3 days"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "template", "reason"),
    [
        ("user", ONLY_USER, "only user turns are allowed"),
        ("tools", NEEDS_TOOLS, "tools are required"),
        ("first", FIRST_ONLY, "leaves the record out"),
    ],
)
def test_the_commands_say_it(said: Said, tmp_path: Path, name: str, template: str, reason: str) -> None:
    """`models` and `doctor` try a model before they call it tunable; a run on it ends with one line."""
    model = tiny.make(tmp_path / f"{name}.gguf", chat_template=template, context=4096)
    row = said("models", model)[0].splitlines()[1]
    assert " no " in row and reason in row
    assert reason in said("doctor", "--model", model)[0]
    flags = ("--input", ROWS, "--model", model, "--topics", "t", "--output-dir", tmp_path / "out")
    last = said("tune", *flags, "--approach", "tune", code=1)[1].splitlines()[-1]
    assert last.startswith("error: ") and reason in last
    if name != "user":  # user turns are all that a model set without examples needs
        verdict = expertune("tune", *flags, "--approach", "model-set", host=FAR).stdout.splitlines()[0]
        assert "has not been evaluated" in verdict and reason in verdict


@pytest.mark.slow
def test_an_abort_ends_no_run(tmp_path: Path) -> None:
    model = tiny.make(tmp_path / "m.gguf", architecture="qwen2", extra={"qwen2.rope.dimension_count": 8}, context=4096)
    flags = ("--input", ROWS, "--model", model, "--topics", "t", "--output-dir", tmp_path / "out")
    done = expertune("tune", *flags, host=FAR)
    assert done.returncode == 2 and "llama.cpp rotates whole heads" in done.stderr.splitlines()[-1]
    verdict = expertune("tune", *flags, "--approach", "model-set", host=FAR).stdout.splitlines()[0]
    assert "llama.cpp would abort on it" in verdict and "GGML_ASSERT" in verdict
