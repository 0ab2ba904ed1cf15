#!/usr/bin/env bash
# The peers' environments for bench/job.py, in DIR: trl/, unsloth/ and llama.cpp/ (its converter, from the source archive
# of llama-cpp-python, the package that carries it). About 3.2 GB. Usage: bench/peer_setup.sh DIR
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd); dir=${1:?usage: bench/peer_setup.sh DIR}; python=${PYTHON:-python3}
mkdir -p "$dir"; work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
pip() { "$1" -m pip "${@:2}" --quiet --disable-pip-version-check; }
"$python" -m venv "$dir/trl"
pip "$dir/trl/bin/python" install -r "$here/requirements-peer.txt"
"$python" -m venv "$dir/unsloth"
pip "$dir/unsloth/bin/python" install -r "$here/requirements-unsloth.txt"
pip "$dir/unsloth/bin/python" install --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9
pip "$dir/trl/bin/python" download --no-deps --no-binary llama-cpp-python -d "$work" llama-cpp-python==0.3.36
mkdir -p "$dir/llama.cpp"
tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$dir/llama.cpp" --strip-components=3 --wildcards \
    '*/vendor/llama.cpp/convert_hf_to_gguf.py' '*/vendor/llama.cpp/conversion/*' '*/vendor/llama.cpp/gguf-py/*' '*/vendor/llama.cpp/LICENSE'
echo "--peer-python $dir/trl/bin/python --unsloth-python $dir/unsloth/bin/python --convert $dir/llama.cpp/convert_hf_to_gguf.py"
