"""The decoder over a GGUF's own blocks, with LoRA. torch begins here."""

import os

# torch's threads wait for each other by spinning. Where another program has one of the cores, spinning threads keep each
# other from it: a step took ten times as long (docs/LOG.md). A short spin costs nothing on a free machine.
# Read by the OpenMP runtime when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
