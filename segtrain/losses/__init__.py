"""Pixel losses, region losses, mining and criteria.

The names below work in any PyTorch loop and need nothing but torch. Importing the package registers every criterion.
"""

from segtrain.losses.criterion import Criterion, as_criterion
from segtrain.losses.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    bootstrapped_binary_cross_entropy_with_logits,
    bootstrapped_cross_entropy,
    cross_entropy,
    dice_loss,
    focal_loss,
    jaccard_loss,
    kl_div,
    l1_loss,
    lovasz_loss,
    mse_loss,
    nll_loss,
    tversky_loss,
)
from segtrain.losses.inspection import Inspection
from segtrain.losses.maps import Loss, LossMap
from segtrain.losses.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    BootstrappedBCEWithLogits,
    BootstrappedCrossEntropy,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    KLDivLoss,
    L1Loss,
    LabelSmoothingCrossEntropy,
    LovaszLoss,
    Mined,
    MSELoss,
    NLLLoss,
    TverskyLoss,
)
from segtrain.losses.standalone import Statistics
from segtrain.losses.targets import check_target

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "BootstrappedBCEWithLogits",
    "BootstrappedCrossEntropy",
    "Criterion",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "Inspection",
    "JaccardLoss",
    "KLDivLoss",
    "L1Loss",
    "LabelSmoothingCrossEntropy",
    "Loss",
    "LossMap",
    "LovaszLoss",
    "MSELoss",
    "Mined",
    "NLLLoss",
    "Statistics",
    "TverskyLoss",
    "as_criterion",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "bootstrapped_binary_cross_entropy_with_logits",
    "bootstrapped_cross_entropy",
    "check_target",
    "cross_entropy",
    "dice_loss",
    "focal_loss",
    "jaccard_loss",
    "kl_div",
    "l1_loss",
    "lovasz_loss",
    "mse_loss",
    "nll_loss",
    "tversky_loss",
]
