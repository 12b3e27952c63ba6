"""The embedded model's vision tower (convolutional stem, transformer blocks), registered with transformers.

Stock ViTs with linear patches do not learn to read in the training budget of a laptop; a convolutional stem
does. Importing this module registers `secondglance_tower` with the Auto classes, so that
`LlavaForConditionalGeneration.from_pretrained` loads the model from a plain directory with
`trust_remote_code=False`. Training lives in `training/`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from secondglance_server.engine.convolution import Convolution, ResidualBlock


class TowerConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # transformers' hook is unannotated
    """`hidden_size` features for each of (image_size / patch_size)^2 tokens; the stem's stride is 16."""

    model_type = "secondglance_tower"

    def __init__(
        self,
        hidden_size: int = 192,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 6,
        stem_channels: tuple[int, int, int] = (32, 64, 128),
        residual_blocks: int = 3,
        image_size: int = 224,
        patch_size: int = 16,
        num_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.stem_channels = tuple(stem_channels)
        self.residual_blocks = residual_blocks
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        super().__init__(**kwargs)


class AttentionBlock(nn.Module):
    """Pre-norm self-attention over all cells, then a GELU MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # [B, N, C]
        batch, count, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        attended: Tensor = x + self.out(mixed.transpose(1, 2).reshape(batch, count, width))
        result: Tensor = attended + self.mlp(self.norm_mlp(attended))
        return result


class Tower(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers' hook is unannotated
    """[B, 3, 224, 224] -> [B, 196, hidden_size], row by row from the top left."""

    config_class = TowerConfig
    base_model_prefix = "tower"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # transformers' own models give tuples
    _supports_sdpa = True

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        first, second, third = config.stem_channels
        # to stride 8: fine enough for characters of five pixels
        self.fine = nn.Sequential(
            Convolution(config.num_channels, first, 2),
            Convolution(first, second, 2),
            Convolution(second, second),
            Convolution(second, third, 2),
            Convolution(third, third),
        )
        blocks = [ResidualBlock(config.hidden_size) for _ in range(config.residual_blocks)]
        self.coarse = nn.Sequential(Convolution(third, config.hidden_size, 2), *blocks)
        cells = (config.image_size // config.patch_size) ** 2
        self.positions = nn.Parameter(torch.zeros(1, cells, config.hidden_size))
        self.blocks = nn.ModuleList(
            AttentionBlock(config.hidden_size, config.num_attention_heads)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]  # unannotated in transformers

    def _init_weights(self, module: nn.Module) -> None:
        """Keeps torch's own initialisation, which suits this mix of layers."""

    def features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """The cells' features [B, N, C] and the stem's fine map [B, 128, 28, 28], read by training only."""
        fine = self.fine(pixel_values)
        x = self.coarse(fine).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x), fine

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        cells, _fine = self.features(pixel_values)
        return BaseModelOutput(last_hidden_state=cells, hidden_states=(cells,))


AutoConfig.register(TowerConfig.model_type, TowerConfig)
AutoModel.register(TowerConfig, Tower)
