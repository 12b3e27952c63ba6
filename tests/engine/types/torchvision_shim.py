"""Lets a torchvision that was built for CUDA import beside a torch without: a pytest plugin.

`make test-torchvision` loads it before anything else. Image processors use torchvision's transforms, which
need none of its compiled operators; its import asks for two by name.
"""

from __future__ import annotations

import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
