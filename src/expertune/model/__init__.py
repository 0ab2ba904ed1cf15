"""The decoder over a GGUF's own blocks, with LoRA. torch begins here."""

import os

# torch's threads wait for each other by spinning. Where another program has one of the cores, spinning threads keep
# each other from it and a step takes many times as long; a short spin costs a free machine a few percent (docs/LOG.md).
# Read by the OpenMP runtime when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
