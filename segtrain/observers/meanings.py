"""What the tags mean, in the words that TensorBoard shows beside a chart, and how its charts are grouped."""

from __future__ import annotations

from segtrain.task import Kind

# tag, or its beginning with a slash at the end → meaning
_MEANINGS = {
    "train/loss": "What is minimised: the mean over the mined pixels.",
    "train/loss_all": "Plain mean over all valid pixels of the same batch, mined or not.",
    "train/loss/": "One term of the criterion, before its weight.",
    "train/grad_norm": "Norm of all gradients before clipping.",
    "optim/lr/": "Learning rate of a group of parameters.",
    "mining/top_p_target": "Share of the valid pixels that is to be kept at this step.",
    "mining/top_p_effective": "Share of the valid pixels that was kept, over all ranks.",
    "mining/threshold": "Smallest loss that is kept.",
    "mining/loss_share": "Loss of the kept pixels / loss of all valid pixels.",
    "mining/pixels_for_99pct_loss": "The natural p: the smallest share of the pixels that holds 99 % of the loss. "
    "Far below top_p: easy pixels are kept too.",
    "mining/easy_fraction": "Share of the kept pixels with a loss below 0.01. High: top_p is too large.",
    "mining/confident_wrong": "Share of the kept pixels that are wrong with a probability above 0.95. "
    "High: look for wrong labels.",
    "mining/max_image_share": "Share of the kept pixels that comes from one image. High: one image dominates.",
    "mining/boundary_lift": "How much likelier a pixel near a boundary is kept than a pixel anywhere.",
    "mining/class_lift/": "How much likelier a pixel of the class is kept than a pixel of any class.",
    "val/miou": "Mean over the classes of intersection / union.",
    "val/boundary_iou_3px": "Mean over the classes of intersection / union of the pixels at most 3 px from an outline.",
    "val/iou/": "Intersection / union of a class.",
    "val/top1": "Share of the images whose label is the most probable class.",
    "val/top5": "Share of the images whose label is among the five most probable classes.",
    "val/macc": "Mean over the classes of the share that is found.",
    "val/nll": "Mean negative logarithm of the probability of the label, whatever the criterion.",
    "val/ece": "Expected calibration error: how far probabilities are from how often they are right, in 15 bins.",
    "val/wrong": "The most confident mistakes. Some of them may be wrong labels.",
    "val/most_confused": "Which classes are taken for which.",
    "perf/data_share": "Share of the time spent waiting for data.",
    "probe/panel": "Image, label, prediction and errors of fixed images. Show actual image size to read it.",
    "mining/overlay": "Mined pixels in magenta, boundaries of the label in white.",
    "mining/loss_map": "Loss of each pixel on a logarithmic scale; the mined pixels are enclosed in white.",
    "mining/curve": "How much of the loss the hardest share p of the pixels holds.",
    "mining/histogram": "How many pixels have which loss, and from where on they are mined.",
    "val/confusion": "Rows are labels, columns predictions, in percent of the row.",
    "data/batch": "Images and labels as the model is trained on, after augmentation.",
}

Charts = dict[str, dict[str, list[str]]]  # category → chart → what its tags match; TensorBoard matches at the beginning
# of a tag, hence the $
_MINING: Charts = {
    "mining": {
        "pixels: to keep, kept, natural p": [
            r"mining/top_p_target$",
            r"mining/top_p_effective$",
            r"mining/pixels_for_99pct_loss$",
        ],
        "loss: minimised, of all pixels": [r"train/loss$", r"train/loss_all$"],
        "share of the loss that is kept": [r"mining/loss_share$"],
        "smallest loss that is kept": [r"mining/threshold$"],
        "lift of classes (1 = kept like any pixel)": [r"mining/class_lift/"],
        "lift near boundaries (1 = kept like any pixel)": [r"mining/boundary_lift$"],
        "warnings: easy, confidently wrong, from one image": [
            r"mining/easy_fraction$",
            r"mining/confident_wrong$",
            r"mining/max_image_share$",
        ],
    }
}
LAYOUT: dict[Kind, Charts] = {
    "segmentation": {
        **_MINING,
        "validation": {
            "mIoU": [r"val/miou$"],
            "IoU of classes": [r"val/iou/"],
            "loss: of validation, of all training pixels": [r"val/loss$", r"train/loss_all$"],
        },
    },
    "classification": {
        **_MINING,
        "validation": {
            "top-1, top-5, mean of classes": [r"val/top1$", r"val/top5$", r"val/macc$"],
            "calibration error": [r"val/ece$"],
            "loss: of validation, of all training images": [r"val/loss$", r"train/loss_all$"],
        },
    },
}


def meaning(tag: str) -> str:
    """What `tag` means, in a sentence; empty where there is nothing to say."""
    group = "/".join(tag.split("/")[:2]) + "/"
    return _MEANINGS.get(tag) or _MEANINGS.get(group, "")
