"""Name the format of a file that is not a GGUF, from its first bytes."""

from __future__ import annotations

HEAD = 512  # bytes that are looked at
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<")
_MAGICS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras weights?)",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ\0": "an xz archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a zstandard archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"lmgg": "an old GGML file", b"fmgg": "an old GGML file", b"tjgg": "an old GGML file",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself (git lfs pull)",
    b"\x93NUMPY": "a NumPy array",
    b"TFL3": "a TensorFlow Lite model",
    b"%PDF": "a PDF document",
}  # fmt: skip


def foreign_format(head: bytes) -> str:
    """The format of a file with these first HEAD bytes, with what to do where that is known."""
    known = next((name for magic, name in _MAGICS.items() if head.startswith(magic)), None)
    if known is not None:
        return known
    if head.startswith(b"PK\x03\x04"):
        # torch.save writes a zip whose first entry is NAME/data.pkl
        return "a PyTorch checkpoint; convert it" if b"data.pkl" in head else "a zip archive; unpack it"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if head[8:9] == b"{":  # after the length of its JSON header
        return "a safetensors file; convert it"
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5":
        return "a Python pickle (an old PyTorch checkpoint?); convert it"
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x3a"):  # ModelProto: ir_version, then a string
        return "an ONNX model"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "an HTML page (a failed download?)"
    return "a text file" if all(byte in b"\t\n\r" or byte >= 32 for byte in head[:32]) else "some other binary file"
