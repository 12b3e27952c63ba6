"""Which scenes are for what. Every number below 200,000 belongs to training or to other measurements."""

TEST_SEED = 200_000
"""The first scene that results are taken from."""

CALIBRATION_SEED = 300_000
"""The first scene that gates and encodings are chosen on: never one that they are judged by."""
