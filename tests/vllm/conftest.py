"""Tests that need vLLM, in an environment of its own: `make test-vllm`, fifteen minutes on two cores.

`engine/` runs in vLLM's environment. `http/` runs in the usual one and starts the server in vLLM's, so that
edge and prefix engine are the ones that everybody uses. `make test` collects neither.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if "SECONDGLANCE_VLLM_PYTHON" in os.environ else ["engine", "http"]
