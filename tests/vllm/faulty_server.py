"""`secondglance-server` with workers that break on demand (`faults`)."""

from secondglance_server.cli import main
from secondglance_server.engine.vllm import launch

if __name__ == "__main__":
    launch.EXTENSION = "tests.vllm.faults.FaultyExtension"
    main()
