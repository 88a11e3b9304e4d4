"""An own model and an own schedule: three convolutions, and a learning rate that falls in steps."""

from torch import Tensor, nn

from segtrain.registry import MODELS, SCHEDULES
from segtrain.schedule import Schedule


class Small(nn.Module):
    """uint8 [B, 3, H, W] → logits [B, channels, H, W]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(width, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Images come as they are: how they are normalised is the model's business."""
        return self.head(self.encoder(image.to(self.head.weight.dtype) / 127.5 - 1))

    def in_encoder(self, name: str) -> bool:
        """Which parameters `optimizer.encoder_lr` and `freeze_encoder` mean; only these keys need it."""
        return name.startswith("encoder.")


@MODELS.register("small")
def small(channels: int, *, width: int = 16) -> Small:
    """Three convolutions of `width` channels at full resolution."""
    return Small(channels, width)


@SCHEDULES.register("milestones")
def milestones(run: int, *, at: list[float], factor: float = 0.1) -> Schedule:
    """The learning rate is multiplied by `factor` at each share of the run in `at`."""
    steps = [share * run for share in at]
    return lambda step: 1 - factor ** sum(step >= one for one in steps)  # the way from the full rate to 0
