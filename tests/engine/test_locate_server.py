"""A name becomes a file through the running server: the same as its folder says, wherever the server keeps it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import replies
import tiny
from expertune.engine.locate import listed, locate
from expertune.engine.ollama.model import DEFAULT_TEMPLATE, parsed_parameters, plain_parameters, shown
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError, FineTuningNotSupportedError, UsageError
from ollama_contract.server import ContractServer
from replies import Reply, Request, json_reply

RECORDED = Path(__file__).parents[1] / "data/ollama"
SHOWS = {"tiny": "show", "tiny-jinja": "show-jinja", "tiny-odd": "show-odd", "tiny-merged": "show-merged"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recorded folder, each left-out model blob replaced by a tiny one."""
    folder = tmp_path / "models"
    shutil.copytree(RECORDED, folder)
    made = tiny.make(tmp_path / "tiny.gguf", layers=1)
    for manifest in folder.glob("manifests/*/*/*/*"):
        for layer in json.loads(manifest.read_bytes())["layers"]:
            if layer["mediaType"].endswith(".model"):
                shutil.copy(made, folder / "blobs" / layer["digest"].replace(":", "-"))
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return folder


def _recorded_show(model: str) -> dict[str, Any]:
    return replies.recorded(SHOWS.get(model, f"show-{model.removeprefix('tiny-')}"))


class Shows:
    """Answers as the recorded server did; `changes` overrides fields of every show."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def __call__(self, request: Request) -> Reply:
        if request.path == "/api/version":
            return json_reply(replies.recorded("version"))
        if request.path == "/api/tags":
            return json_reply(replies.recorded("tags"))
        model = request.json["model"].removesuffix(":latest")
        if model not in {*SHOWS, "tiny-adapter"}:
            return json_reply(replies.recorded("show-missing"), 404)
        return json_reply({**_recorded_show(model), **self.changes})


def _from(show: dict[str, Any]) -> str:
    return next(line for line in show["modelfile"].splitlines() if line.startswith("FROM "))


def _modelfile(path: Path | str, model: str = "tiny", more: str = "") -> str:
    show = _recorded_show(model)
    return show["modelfile"].replace(f"{_from(show)}\n", f"FROM {path}\n{more}")


# --- the same as from the folder ---


@pytest.mark.parametrize("model", SHOWS)
def test_server_and_folder_say_the_same(folder: Path, model: str):
    with replies.serving(Shows()) as server, OllamaServer(server.url) as client:
        found = locate(model, client)
    assert found.server == server.url
    assert replace(found, server=None) == locate(model)
    assert found.path.parent == folder / "blobs"


def test_what_a_model_brings(folder: Path):
    with replies.serving(Shows()) as server, OllamaServer(server.url) as client:
        found = locate("tiny", client)
        assert (found.system, found.license, found.source) == ("You rate emergency visits.", "CC0", "ollama")
        assert found.parameters == {"num_ctx": 1024, "stop": ["</s>"], "temperature": 0.2}
        assert found.template == _recorded_show("tiny")["template"]
        assert locate("tiny-odd", client).template is None  # the GGUF's own Jinja is no layer
        assert locate("tiny-jinja", client).parameters["stop"][1] == "<|system|>"


def test_the_contract_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The whole way, on a server that has real files; its own path is used where it can be read."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    gguf = tiny.make(tmp_path / "some.gguf", layers=1)
    parameters = {"num_ctx": 512, "stop": ["<a>", '"b"\n'], "temperature": 0.25}
    with ContractServer(tmp_path / "models") as server:
        server.add("rater", gguf, template="{{ .Prompt }} and", system="Rate.", parameters=parameters, license="MIT")
        server.add("bare", gguf)
        with OllamaServer(server.url) as client:
            found = [locate(name, client) for name in ("rater", "bare")]
            every = listed(client)
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
        assert [replace(each, server=None) for each in found] == [locate("rater"), locate("bare")]
    assert found[0].path.is_relative_to(tmp_path / "models")
    assert (found[0].system, found[0].license, found[0].parameters) == ("Rate.", "MIT", parameters)
    assert {each.name: each.reason for each in every} == {"rater": None, "bare": None}


# --- where the file is ---


def test_the_servers_own_path_comes_first(folder: Path, tmp_path: Path):
    theirs = tiny.make(tmp_path / "own path.gguf", layers=1)
    with replies.serving(Shows(modelfile=_modelfile(theirs))) as server, OllamaServer(server.url) as client:
        assert locate("tiny", client).path == theirs


def test_a_path_of_windows(folder: Path):
    blob = Path(_from(_recorded_show("tiny"))).name
    show = Shows(modelfile=_modelfile(rf"C:\Users\me\.ollama\models\blobs\{blob}"))
    with replies.serving(show) as server, OllamaServer(server.url) as client:
        assert locate("tiny", client).path == folder / "blobs" / blob


@pytest.mark.parametrize("path", ["/root/.ollama/models/blobs/sha256-" + 64 * "0", "/models/some.gguf", "C:\\a\\b"])
def test_inside_a_container(folder: Path, path: str):
    with (
        replies.serving(Shows(modelfile=_modelfile(path))) as server,
        OllamaServer(server.url) as client,
        pytest.raises(FineTuningNotSupportedError, match=r"in its container.*mount its models folder.*OLLAMA_MODELS"),
    ):
        locate("tiny", client)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize(
    ("name", "line"), [("service/blobs", "you may not read this folder; have your user added to its group")]
)
def test_the_folder_of_the_service(folder: Path, tmp_path: Path, name: str, line: str):
    """As root nothing is unreadable, so the child gives up root once it has everything imported."""
    blob = tmp_path / name / f"sha256-{64 * '1'}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF")
    blob.parent.parent.chmod(0)
    code = (
        "import os, grp, difflib, httpx, encodings.idna\n"
        "from expertune.engine.locate import locate\n"
        "from expertune.engine.ollama.server import OllamaServer\n"
        "from expertune.errors import FineTuningNotSupportedError\n"
        "with OllamaServer() as server:\n"
        "    if os.geteuid() == 0: os.setuid(65534)\n"
        "    try: locate('tiny', server)\n"
        "    except FineTuningNotSupportedError as error: print(error)\n"
    )
    with replies.serving(Shows(modelfile=_modelfile(blob))) as server:
        child = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={
                **os.environ,
                "OLLAMA_HOST": server.url,
                "OLLAMA_MODELS": str(tmp_path / "absent"),
                "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            },
        )
    blob.parent.parent.chmod(0o700)
    assert line in child.stdout, child.stderr


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"remote_host": "https://ollama.com:443", "remote_model": "big"}, "runs in Ollama's cloud"),
        ({"remote_model": "big", "modelfile": "FROM \n"}, "runs in Ollama's cloud"),
        ({"details": {"format": "safetensors"}, "modelfile": "FROM tiny\n"}, r"stored as safetensors \(MLX\)"),
        ({"projector_info": {"general.architecture": "clip"}}, "a vision model"),
        ({"modelfile": "FROM /a\nFROM /b\n", "capabilities": ["completion", "vision"]}, "a vision model"),
        ({"modelfile": "FROM /a\nADAPTER /b\n"}, "already a base with an adapter"),
        ({"modelfile": "FROM /a\nFROM /b\nFROM /c\n"}, "split into 3 files; join them with llama-gguf-split"),
        ({"modelfile": ""}, "names no file of weights"),
    ],
)
def test_refused(folder: Path, changes: dict[str, Any], line: str):
    with (
        replies.serving(Shows(**changes)) as server,
        OllamaServer(server.url) as client,
        pytest.raises(FineTuningNotSupportedError, match=f"^tiny: .*{line}"),
    ):
        locate("tiny", client)


def test_the_recorded_adapter(folder: Path):
    with (
        replies.serving(Shows()) as server,
        OllamaServer(server.url) as client,
        pytest.raises(FineTuningNotSupportedError, match="already a base with an adapter"),
    ):
        locate("tiny-adapter", client)


def test_the_nearest_names(folder: Path):
    with replies.serving(Shows()) as server, OllamaServer(server.url) as client:
        with pytest.raises(UsageError, match=r"tinny: no such file or Ollama model; nearest: .*tiny"):
            locate("tinny", client)
        with pytest.raises(UsageError, match="not a model's name"):
            locate("../etc/passwd", client)
        assert not any(b"passwd" in request.body for request in server.asked)


def test_a_path_asks_no_server(tmp_path: Path):
    path = tiny.make(tmp_path / "some.gguf", layers=1)
    with replies.serving(Shows()) as server, OllamaServer(server.url) as client:
        found = locate(str(path), client)
        assert [request.path for request in server.asked] == ["/api/version"]
    assert (found.source, found.server) == ("file", None)


@pytest.mark.parametrize("changes", [{"details": ["gguf"]}, {"capabilities": 3, "modelfile": "FROM /a\nFROM /b\n"}])
def test_an_unknown_form(folder: Path, changes: dict[str, Any]):
    with (
        replies.serving(Shows(**changes)) as server,
        OllamaServer(server.url) as client,
        pytest.raises(EngineError, match="in an unknown form; update Expertune"),
    ):
        locate("tiny", client)


# --- every model of the server ---


def test_listed(folder: Path):
    with replies.serving(Shows()) as server, OllamaServer(server.url) as client:
        found = {each.name: each for each in listed(client)}
    assert len(found) == len(replies.recorded("tags")["models"])
    assert found["tiny"].located is not None
    assert (found["tiny"].size, found["tiny"].family, found["tiny"].parameters) == (24485468, "llama", "42.21M")
    assert found["tiny"].quantisation == "unknown"
    assert "base with an adapter" in (found["tiny-adapter"].reason or "")
    assert "no such file" in (found["tiny-x"].reason or "")  # gone between the two questions
    assert [found[name].located is None for name in ("tiny-adapter", "tiny-x")] == [True, True]


# --- how /api/show is read ---


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", "plain"),
        ("two\nlines", '"two\nlines"'),
        ('a "quote" and\na line', '"""a "quote" and\na line"""'),
        (" blank", '" blank"'),
        ('"begins', '"begins'),
        ("FROM /etc/passwd\nADAPTER x\nRENDERER no", '"FROM /etc/passwd\nADAPTER x\nRENDERER no"'),
    ],
)
@pytest.mark.parametrize("native", [False, True])
def test_the_template_line(text: str, quoted: str, native: bool):
    """Also where `template` is the GGUF's own Jinja, which some servers prefer to the layer."""
    found = shown(
        "tiny",
        {
            "modelfile": f"# made\n\nFROM /a\nTEMPLATE {quoted}\nSYSTEM {quoted}\nRENDERER qwen3-coder\nPARSER qwen3\n",
            "template": "{% jinja %}" if native else text,
            "system": text,
        },
    )
    assert (found.weights, found.adapters, found.template, found.system) == (("/a",), 0, text, text)
    assert (found.renderer, found.parser) == ("qwen3-coder", "qwen3")


def test_no_template_layer():
    for template in (DEFAULT_TEMPLATE, "{% jinja %}"):
        assert (
            shown("a", {"modelfile": f"FROM /a\nTEMPLATE {DEFAULT_TEMPLATE}\n", "template": template}).template is None
        )


def test_licences():
    assert shown("a", {"license": ["MIT", "CC0"]}).license == "MIT\nCC0"
    assert shown("a", {"license": ""}).license is None


# A parameter as Ollama keeps it: whole numbers to 2^53 (Go reads them as float64), texts as JSON has them.
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
)
GO_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _go_text(text: str) -> str:
    """strconv.Quote"""

    def escaped(each: str) -> str:
        if each in GO_ESCAPES or each in '"\\':
            return GO_ESCAPES.get(each, f"\\{each}")
        if each.isprintable():
            return each
        code = ord(each)
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return '"' + "".join(map(escaped, text)) + '"'


def _go_number(value: float) -> str:
    """strconv.FormatFloat(value, 'g', -1, 64) to its value; Go writes an exponent from 1e+21 or 1e+06 on."""
    return repr(float(value)) if abs(value) >= 1e6 or not float(value).is_integer() else str(int(value))


def _go(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _go_text(value) if isinstance(value, str) else _go_number(value)


@given(st.dictionaries(st.sampled_from(["stop", "num_ctx", "temperature", "seed", "other"]), VALUES))
def test_parameters_of_server_and_folder_are_alike(values: dict[str, Any]):
    lines = [
        f"{key:30} {_go(each)}"
        for key, value in values.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    assert parsed_parameters("\n".join(lines)) == plain_parameters(json.loads(json.dumps(values)))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("num_ctx   1.048576e+06", {"num_ctx": 1048576}),
        ("num_ctx   4096\n\n  use_mmap   true", {"num_ctx": 4096, "use_mmap": True}),
        ('stop "a b"\nstop "\\n\\x00"', {"stop": ["a b", "\n\0"]}),
        ('stop "<|im_end|>"', {"stop": ["<|im_end|>"]}),
        ("x <nil>", {}),
        ('x "broken', {"x": "broken"}),
        ('x map[string]interface {}{"a":1}', {"x": 'map[string]interface {}{"a":1}'}),
    ],
)
def test_parameters(text: str, values: dict[str, Any]):
    assert parsed_parameters(text) == values


@given(st.text())
def test_any_text_of_a_modelfile_is_read(text: str):
    found = shown("a", {"modelfile": text, "parameters": text, "template": text})
    assert all(weight in text for weight in found.weights)
