"""A benchmark's model behind the real server.

    python -m benchmarks.instruments.serve NAME --host HOST --port PORT

The embedded model, a directory and a hub id are served by `secondglance-server` itself; this is for
configurations that exist only here, with random weights.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.instruments.models import MODELS
from secondglance_server.serving import run_until_stopped
from secondglance_server.settings import load_settings
from secondglance_server.telemetry.logs import configure_logging


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    settings = load_settings(host=arguments.host, port=arguments.port)
    configure_logging(settings.log_level)
    torch.manual_seed(0)
    return 0 if run_until_stopped(settings, MODELS[arguments.name].build()) else 1


if __name__ == "__main__":
    sys.exit(main())
