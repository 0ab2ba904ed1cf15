"""The decoder over a GGUF's own blocks, with LoRA. torch begins here."""

import os
import sys

# torch's threads wait for each other by spinning. Where another program has one of the cores, spinning threads keep
# each other from it and a step takes many times as long; a short spin costs a free machine a few percent. GNU's library
# nearly stops spinning once there are more of its threads than cores, and counts idle ones: llama.cpp, which shares the
# library, then reads half as fast beside torch's idle threads. The policy "active" keeps a third of the spin (LOG.md).
if sys.platform == "linux" and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("OMP_WAIT_POLICY", "active")
# The matrix library keeps what it prepared for each shape of a product, up to a thousand of them, with their buffers.
# Rows of all lengths make ever new shapes: a gigabyte in a hundred steps, and slower ones (docs/LOG.md).
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "64")
# Both are read when torch is loaded.
