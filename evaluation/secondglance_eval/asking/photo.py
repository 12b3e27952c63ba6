"""One picture at the edge while its questions are asked: what is sent of it, prepared by the edge's own code.

Whole-picture views are encoded once, however many questions follow; crops are cut anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from PIL import Image

from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.encoding import Encoded, Recipe, encode
from secondglance.pictures.orientation import Size
from secondglance.pictures.original import Original
from secondglance_protocol.protocol import MediaType
from secondglance_protocol.wire import ModelResponse, PatchOffer, PixelBox

_NO_LIMIT = 1 << 40
_MEDIA_TYPES: dict[str, MediaType] = {"PNG": "image/png", "WEBP": "image/webp"}


@dataclass(frozen=True, slots=True)
class View:
    """The whole picture at `scale` times the sides that the model can use, at the recipe's quality."""

    recipe: Recipe
    scale: float = 1.0

    @property
    def name(self) -> str:
        chroma = f" {self.recipe.subsampling}" if self.recipe.format == "jpeg" else ""
        return f"{self.recipe.format}{chroma} q{self.recipe.quality} {self.scale:g}x"

    def at_quality(self, quality: int) -> View:
        """Return the same view at another quality."""
        return replace(self, recipe=replace(self.recipe, quality=quality, min_quality=quality))


@dataclass(frozen=True, slots=True)
class Photo:
    """Not shared by threads."""

    data: bytes = field(repr=False)
    size: Size
    model: ModelResponse
    _views: dict[View, Encoded] = field(default_factory=dict, repr=False)
    _images: dict[float, Image.Image] = field(default_factory=dict, repr=False)

    def view(self, view: View) -> Encoded:
        """Return the whole picture as the edge sends it, or larger or finer."""
        if view not in self._views:
            self._views[view] = _encoded(self._scaled(view.scale), view.recipe, self.model.image.formats)
        return self._views[view]

    def patch(self, pixels: PixelBox, offer: PatchOffer, recipe: Recipe, scale: float = 1.0) -> Encoded:
        """Return a crop of the original as the edge sends it."""
        with Original(self.data) as original:
            image = original.patch(
                (pixels.left, pixels.top, pixels.right, pixels.bottom),
                PixelBudget(offer.max_width, offer.max_height, offer.max_pixels).scaled(scale),
            )
        return _encoded(image, recipe, offer.formats)

    def whole(self) -> Encoded:
        """Return the file itself."""
        with Original(self.data) as original:
            media_type = _MEDIA_TYPES.get(original.format or "", "image/jpeg")
        return Encoded(self.data, media_type, self.size, None)

    def _scaled(self, scale: float) -> Image.Image:
        if scale not in self._images:
            with Original(self.data) as original:
                self._images[scale] = original.global_image(self._budget(scale))
        return self._images[scale]

    def _budget(self, scale: float) -> PixelBudget:
        image, limits = self.model.image, self.model.limits
        whole = PixelBudget(
            image.max_width,
            image.max_height,
            image.max_pixels,
            min_side=limits.min_side_pixels,
            max_aspect=limits.max_aspect_ratio,
        )
        return whole.scaled(scale)


def _encoded(image: Image.Image, recipe: Recipe, formats: tuple[MediaType, ...]) -> Encoded:
    return encode(image, recipe, accepted=formats, max_bytes=_NO_LIMIT)
