"""The decoder over a GGUF's own blocks, with LoRA. torch begins here."""

import os

# torch's threads wait for each other by spinning. Where another program has one of the cores, spinning threads keep
# each other from it and a step takes many times as long; a short spin costs a free machine a few percent (docs/LOG.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# The matrix library keeps what it prepared for each shape of a product, up to a thousand of them, with their buffers.
# Rows of all lengths make ever new shapes: a gigabyte in a hundred steps, and slower ones (docs/LOG.md).
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "64")
# Both are read when torch is loaded.
