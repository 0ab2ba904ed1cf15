"""Names become files; each kind of model that cannot be tuned says why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from expertune.engine.locate import listed, locate, models_folders
from expertune.errors import FineTuningNotSupportedError, ModelFileError, UsageError

RECORDED = Path(__file__).parents[1] / "data/ollama"
TINY = "6cfc437bf6568f5253d39ea5ef90b26860e42426671f524877c73342e9e2168c"
CONFIG = "678babfeaba15d9f76addcf9a0f8f970c06fcc9d25106ae15f129087403ee03d"
PARAMETERS = "c89936cc45afa0df4eff5bb7fedbebd90c91909bf15160ec0e495be330ed1f5f"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recorded folder, with a tiny model where its left-out blobs were."""
    folder = tmp_path / "models"
    shutil.copytree(RECORDED, folder)
    tiny.make(folder / f"blobs/sha256-{TINY}", layers=1)
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return folder


def test_a_path(tmp_path: Path):
    path = tiny.make(tmp_path / "some.gguf", layers=1)
    found = locate(str(path))
    assert (found.path, found.name, found.source) == (path, "some", "file")
    assert (found.template, found.system, dict(found.parameters)) == (None, None, {})


@pytest.mark.parametrize(
    "name", ["tiny", "tiny:latest", "library/tiny", "registry.ollama.ai/library/tiny:latest", "team/tiny:v2"]
)
def test_a_name(folder: Path, name: str):
    found = locate(name)
    assert found.path == folder / f"blobs/sha256-{TINY}"
    assert (found.source, found.name, found.system) == ("ollama", name, "You rate emergency visits.")
    assert found.template is not None and found.template.startswith("{{ if .System }}")
    assert found.parameters == {"num_ctx": 1024, "stop": ["</s>"], "temperature": 0.2}


@pytest.mark.parametrize("name", ["Tiny", "TINY:Latest", "Team/tiny:V2", "Registry.Ollama.AI/Library/tiny"])
def test_upper_and_lower_case_are_alike(folder: Path, name: str):
    assert locate(name).path == locate("tiny").path


def test_another_registry(folder: Path):
    manifests = folder / "manifests"
    for host in ("hf.co", "localhost:5000"):
        (manifests / host / "team/tiny").mkdir(parents=True)
        shutil.copy(manifests / "registry.ollama.ai/library/tiny/latest", manifests / host / "team/tiny/Q4_K_M")
        assert locate(f"{host}/team/tiny:Q4_K_M").system == "You rate emergency visits."


def test_what_else_the_folder_says(folder: Path):
    assert (locate("tiny").license, locate("tiny").renderer, locate("tiny").server) == ("CC0", None, None)
    _change_config(renderer="qwen3-coder", parser="qwen3")(folder)
    _change_layers(lambda layers: layers.append(next(each for each in layers if "license" in each["mediaType"])))(
        folder
    )
    found = locate("tiny")
    assert (found.renderer, found.parser, found.license) == ("qwen3-coder", "qwen3", "CC0\nCC0")


def test_no_template_layer(folder: Path):
    manifest = json.loads((folder / "manifests/registry.ollama.ai/library/tiny-odd/latest").read_bytes())
    digest = manifest["layers"][0]["digest"]
    shutil.copy(folder / f"blobs/sha256-{TINY}", folder / "blobs" / digest.replace(":", "-"))
    found = locate("tiny-odd")
    assert (found.template, found.system, dict(found.parameters)) == (None, None, {})


def test_the_users_own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    home = folder.parent / "home"
    (home / ".ollama").mkdir(parents=True)
    folder.rename(home / ".ollama/models")
    monkeypatch.delenv("OLLAMA_MODELS")
    assert locate("tiny").path.is_relative_to(home)


def _paths() -> list[str]:
    return [folder.as_posix() for folder in models_folders()]


def test_where_ollama_keeps_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    own = "/home/me/.ollama/models"
    assert _paths()[:2] == [own, "/usr/share/ollama/.ollama/models"]
    assert "/var/snap/ollama/common/models" in _paths()
    for variable in ("/data/models", ' "/data/models" '):  # as Ollama reads it
        monkeypatch.setenv("OLLAMA_MODELS", variable)
        assert _paths()[:2] == ["/data/models", own]


def test_on_macos_and_windows(monkeypatch: pytest.MonkeyPatch):
    """There it is the home folder, whatever the system calls it; services of Linux are looked for on neither."""
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/Users/me"))
    monkeypatch.setattr("expertune.engine.ollama.disk.WINDOWS", True)
    assert _paths() == ["/Users/me/.ollama/models"]


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("OLLAMA_MODELS", "/data/models")
    assert _paths()[:2] == ["/data/models", "/usr/share/ollama/.ollama/models"]
    with pytest.raises(UsageError, match="no such file"):
        locate("~nobody-of-that-name/some.gguf")


def test_a_server_on_another_machine_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.7")
    with pytest.raises(
        UsageError, match=r"OLLAMA_HOST names another machine \(http://10.0.0.7:11434\).*--allow-remote"
    ):
        locate("absent")
    monkeypatch.setenv("OLLAMA_HOST", "a host:11434")
    with pytest.raises(UsageError, match="OLLAMA_HOST was not used"):
        locate("absent")


@pytest.mark.parametrize(("name", "near"), [("tinny", "tiny"), ("team/tiny", "team/tiny:v2"), ("tiny:7b", "tiny")])
def test_the_nearest_names(folder: Path, name: str, near: str):
    with pytest.raises(UsageError, match=rf"{name}: no such file or Ollama model; nearest: .*{near}"):
        locate(name)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("absent.gguf", "no such file"),
        ("../etc/passwd", "not a model's name"),
        ("a/b/c/d", "not a model's name"),
        ("", "a folder"),
        ("llama2:../../x", "not a model's name"),
        ("two words", "not a model's name"),
        ("nul\0byte", "not a model's name"),
        ("x" * 5000, "no such file or Ollama model"),
        ("x/" * 5000, "not a model's name"),
    ],
)
def test_what_is_no_name(folder: Path, name: str, line: str):
    with pytest.raises(UsageError, match=line):
        locate(name)


def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "absent"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="set OLLAMA_MODELS"):
        locate("llama2")


def _change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        blob = folder / f"blobs/sha256-{CONFIG}"
        blob.write_text(json.dumps({**json.loads(blob.read_bytes()), **values}))

    return change


def _change_layers(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "manifests/registry.ollama.ai/library/tiny/latest"
        manifest = json.loads(path.read_bytes())
        change(manifest["layers"])
        path.write_text(json.dumps(manifest))

    return apply


def _projector(layers: list[dict[str, Any]]) -> None:
    layers.append({**layers[0], "mediaType": "application/vnd.ollama.image.projector"})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_change_config(remote_host="https://ollama.com:443"), "runs in Ollama's cloud"),
        (_change_config(model_format="safetensors"), r"stored as safetensors \(MLX\)"),
        (_change_layers(_projector), "vision model"),
        (_change_layers(lambda layers: layers.append(layers[0])), "its weights are split into 2 files"),
        (_change_layers(lambda layers: layers.pop(0)), "names no file of weights"),
    ],
)
def test_refused(folder: Path, change: Callable[[Path], None], line: str):
    change(folder)
    with pytest.raises(FineTuningNotSupportedError, match=f"tiny: .*{line}"):
        locate("tiny")


def test_an_adapter_layer(folder: Path):
    with pytest.raises(FineTuningNotSupportedError, match="already a base with an adapter"):
        locate("tiny-adapter")


@pytest.mark.parametrize(
    ("extra", "kind"), [({"general.type": "adapter"}, "adapter"), ({"general.architecture": "clip"}, "projector")]
)
def test_a_file_of_another_kind(tmp_path: Path, extra: dict[str, Any], kind: str):
    architecture = extra.pop("general.architecture", "llama")
    path = tmp_path / "other.gguf"
    _write_header(path, architecture, extra)
    with pytest.raises(FineTuningNotSupportedError, match=f"of kind {kind}"):
        locate(str(path))


@pytest.mark.parametrize(
    ("architecture", "extra"),
    [("gptoss", {}), ("mllama", {}), ("qwen25vl", {}), ("gemma3", {"gemma3.vision.note": "x"})],
)
def test_the_older_form_of_ollama(tmp_path: Path, architecture: str, extra: dict[str, str]):
    path = tmp_path / "old.gguf"
    _write_header(path, architecture, extra)
    with pytest.raises(FineTuningNotSupportedError, match=r"Ollama's own older form .*pull it again"):
        locate(str(path))


def test_without_a_file_type_it_can_be_used(tmp_path: Path):
    path = tmp_path / "float.gguf"
    _write_header(path, "llama", {})
    (note,) = locate(str(path)).notes
    assert "no general.file_type" in note
    assert locate(str(tiny.make(tmp_path / "tiny.gguf", layers=1))).notes == ()


@pytest.mark.parametrize("pre", [{}, {"tokenizer.ggml.pre": "default"}])
def test_without_a_pre_tokenizer_it_can_be_used(tmp_path: Path, pre: dict[str, str]):
    path = tmp_path / "old-llama3.gguf"
    _write_header(path, "llama", {"general.file_type": "x", "tokenizer.ggml.model": "gpt2", **pre})
    (note,) = locate(str(path)).notes
    assert "names no pre-tokenizer" in note


def _write_header(path: Path, architecture: str, extra: dict[str, str]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in extra.items():
        writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (5 << 20),
        b'{"layers": 3}',
        b'{"config": {"digest": 3}, "layers": []}',
        b'{"config": {"digest": "../../x"}, "layers": []}',
        b'{"config": {"digest": "sha256:' + 64 * b"A" + b'"}, "layers": []}',
        b'{"config": {"digest": "sha256:' + CONFIG.encode() + b'"}, "layers": [{"mediaType": 1, "digest": ""}]}',
    ],
    ids=range(11),
)
def test_a_damaged_manifest(folder: Path, content: bytes):
    (folder / "manifests/registry.ollama.ai/library/tiny/latest").write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged manifest; run `ollama pull tiny`"):
        locate("tiny")
    assert next(each for each in listed() if each.name == "tiny").reason is not None
    assert next(each for each in listed() if each.name == "team/tiny:v2").located is not None


@pytest.mark.parametrize("content", [b"[1]", b"3", b'"a"', b"{", bytes(5 << 20)])
def test_damaged_parameters(folder: Path, content: bytes):
    """Also a layer of texts that is as large as weights: it is not read into memory."""
    (folder / f"blobs/sha256-{PARAMETERS}").write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged manifest"):
        locate("tiny")


def test_listed(folder: Path):
    strange = folder / "manifests/registry.ollama.ai/library/tiny/.DS_Store"
    strange.write_bytes(b"\0")
    found = {each.name: each for each in listed()}
    assert set(found) == {"tiny", "tiny-adapter", "tiny-jinja", "tiny-merged", "tiny-odd", "team/tiny:v2"}
    tiny_one = found["tiny"]
    assert (tiny_one.family, tiny_one.parameters, tiny_one.quantisation) == ("llama", "42.21M", "unknown")
    assert tiny_one.size == 24485468  # what /api/tags said of it
    assert tiny_one.located == replace(locate("tiny"), name="tiny")
    assert "its file" in (found["tiny-merged"].reason or "")


def test_the_first_folder_wins(folder: Path):
    own = folder.parent / "home/.ollama/models"
    shutil.copytree(RECORDED, own)
    (own / "manifests/registry.ollama.ai/library/tiny/7b").write_bytes(b"{")
    found = {each.name: each for each in listed()}
    assert found["tiny"].located is not None
    assert "damaged" in (found["tiny:7b"].reason or "")


def test_a_missing_blob(folder: Path):
    with pytest.raises(ModelFileError, match=r"tiny-merged: its file .* is missing"):
        locate("tiny-merged")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_of_another_user(folder: Path):
    """As root nothing is unreadable, so the child gives up root once it has everything imported."""
    folder.chmod(0)
    code = (
        "import os, grp, difflib\n"
        "from expertune.engine.locate import locate\n"
        "from expertune.errors import FineTuningNotSupportedError\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: locate('tiny')\n"
        "except FineTuningNotSupportedError as error: print(error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    folder.chmod(0o700)
    assert "you may not read this folder; have your user added to its group" in child.stdout, child.stderr
