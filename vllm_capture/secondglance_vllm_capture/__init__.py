"""What Second Glance reads inside vLLM's workers: attention to the picture, and the uncertainty of tokens.

Importing this package loads neither torch nor vLLM. It never imports the server.
"""

from typing import Final

TESTED_VLLM: Final = ("0.32.0",)  # it reads vLLM's own objects: other releases may have changed them
EXTENSION: Final = "secondglance_vllm_capture.extension.CaptureExtension"  # for `worker_extension_cls`
ASKED_BY: Final = (
    "secondglance"  # the key in `SamplingParams.extra_args`; its value is described in `attention`
)
N_LOGPROBS: Final = 2  # a request asks for so many: `uncertainty` writes its numbers in their places
