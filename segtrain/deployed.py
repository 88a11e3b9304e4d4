"""A model as it leaves: images in, answers out, with nothing around it and nothing that depends on the size."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.models.common import ImageModel
from segtrain.task import predict, probabilities

Answer = Literal["logits", "softmax", "argmax"]


class Deployed(nn.Module):
    """uint8 [B, 3, H, W], RGB → logits [B, C, H, W]; probabilities [B, K, H, W]; or class ids uint8 [B, H, W].

    Without H and W in the answers of a classifier, whose class ids are int64. The normalisation is inside, and so is
    the padding of images whose sides the network cannot divide. The numbers are the model's own; but no branch is taken
    on the size, so that one graph serves all sizes.
    """

    def __init__(self, model: nn.Module, answer: Answer) -> None:
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, image: Tensor) -> Tensor:
        return self.answered(self._logits(image))

    def answered(self, logits: Tensor) -> Tensor:
        """The answer that logits of the model, [B, C, H, W] or [B, C], give."""
        if self.answer == "softmax":
            return probabilities(logits)
        if self.answer == "argmax":
            labels = predict(logits)
            return labels.to(torch.uint8) if labels.ndim == 3 else labels
        return logits

    def _logits(self, image: Tensor) -> Tensor:
        model = self.model
        if not isinstance(model, ImageModel):
            logits: Tensor = model(image)
            return logits
        normal = (image.to(model.mean.dtype) - model.mean) / model.std
        height, width = image.shape[-2:]
        padded = model.multiple > 1 or model.smallest > 1
        if padded:
            down, right = (_missing(side, model) for side in (height, width))
            normal = F.pad(normal, (0, right, 0, down))
        output = model.net(normal)
        logits = output[0] if model.has_image_head else output
        if model.upsampling is not None:
            logits = model.upsampling(logits)
        return logits[..., :height, :width] if padded and logits.ndim == 4 else logits


def _missing(size: int, model: ImageModel) -> int:
    """Pixels to add; `size` may be a symbol."""
    wanted: int = torch.sym_max(size, model.smallest) if model.smallest > model.multiple else size  # type: ignore[assignment]
    short: int = wanted + -wanted % model.multiple - size
    return short
