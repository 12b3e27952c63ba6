"""The vLLM engine: continuous batching, paged prefixes, models larger than one device.

Imported only where `engine=vllm` is set; vLLM is no dependency of this package. `core` answers, `front` knows
the model without its weights, `inputs` makes vLLM's requests, `launch` starts vLLM, `maps` fetches attention,
`check` compares it at the start. What runs inside vLLM's workers is `secondglance_vllm_capture`.
"""
