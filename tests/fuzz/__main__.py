"""Fuzz one target: `python -m tests.fuzz image NEW_FINDS tests/fuzz/corpus/image -max_total_time=600`.

Everything after the target's name is libFuzzer's: folders (new inputs go into the first) and options. It
exits with 0 when the time is over, and otherwise leaves the input that failed behind.
"""

from __future__ import annotations

import sys

import atheris

# Seconds for one input; MB, of which 300 are for one input and the rest for the fuzzer; bytes of one.
OPTIONS = ("-timeout=10", "-rss_limit_mb=512", "-max_len=16384")

with atheris.instrument_imports(
    include=["secondglance", "secondglance_server", "secondglance_protocol", "PIL", "python_multipart"]
):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    program, name, *arguments = sys.argv
    target = TARGETS[name]
    atheris.Setup([program, *OPTIONS, *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
