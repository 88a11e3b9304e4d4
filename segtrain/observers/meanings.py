"""What the tags mean, in the words that TensorBoard shows beside a chart, and how its charts are grouped."""

from __future__ import annotations

from segtrain.metrics.tags import AVERAGED, RAW
from segtrain.task import Kind

# tag, or its beginning with a slash at the end → meaning
_MEANINGS = {
    "train/loss": "What is minimised: the mean over the mined pixels.",
    "train/loss_all": "Plain mean over all valid pixels of the same batches, mined or not. It should fall as well.",
    "train/loss/": "One term of the criterion, before its weight.",
    "train/accuracy": "Share of the training images, as augmented, whose label is the most probable class.",
    "train/grad_norm": "Norm of all gradients before clipping, the mean over the steps of a log interval.",
    "train/empty_batches": "Batches of the log interval in which nothing was valid.",
    "train/skipped_steps": "Attempts whose gradients were not finite and that did not count, since the run began.",
    "train/loss_scale": "What the loss is multiplied by, so that fp16 gradients do not vanish.",
    "optim/lr/": "Learning rate of a group of parameters.",
    "optim/weight_decay": "Weight decay of the parameters that are decayed.",
    # under optim, so that TensorBoard, which opens the first two groups, opens data and mining
    "optim/ema_decay": "Share of the averaged weights that a step keeps, smaller at first.",
    "mining/top_p_target": "Share of the valid pixels that is to be kept at this step.",
    "mining/top_p_effective": "Share of the valid pixels that was kept, over all ranks.",
    "mining/threshold": "Smallest loss that is kept.",
    "mining/kept_pixels": "Pixels that count in the loss of a batch, over all ranks.",
    "mining/valid_fraction": "Share of the pixels that have a label. The rest counts nowhere.",
    "mining/loss_share": "Loss of the kept pixels / loss of all valid pixels.",
    "mining/pixels_for_99pct_loss": "The natural p: the smallest share of the pixels that holds 99 % of the loss. "
    "Far below top_p: easy pixels are kept too. Above it: hard ones are left out.",
    "mining/easy_fraction": "Share of the kept pixels with a loss below 0.01. High: top_p is too large.",
    "mining/confident_wrong": "Share of the kept pixels that are wrong with a probability above 0.95. "
    "High: look for wrong labels.",
    "mining/max_image_share": "Share of the kept pixels that comes from one image. High: one image dominates.",
    "mining/boundary_share": "Share of the kept pixels that is at most 3 px from a change of label.",
    "mining/boundary_lift": "How much likelier a pixel near a boundary is kept than a pixel anywhere.",
    "mining/class_share/": "Share of the kept pixels that has this label. Over all classes they add up to 1.",
    "mining/class_lift/": "How much likelier a pixel of the class is kept than a pixel of any class.",
    "mining/churn": "How much of what is mined of the fixed validation images is another than at the evaluation "
    "before: 1 - intersection / union. It falls as a model settles on what is hard; near 0 the same pixels are mined "
    "for ever.",
    "val/miou": "Mean over the classes of intersection / union.",
    "val/boundary_iou_3px": "Mean over the classes of intersection / union of the pixels at most 3 px from an outline.",
    "val/iou/": "Intersection / union of a class.",
    "val/acc/": "Share of the pixels of a class that are found.",
    "val/aacc": "Share of all valid pixels that are right.",
    "val/fwiou": "Mean over the classes of intersection / union, each by its share of the pixels.",
    "val/loss": "Plain mean of the loss: nothing is mined in an evaluation.",
    "val/top1": "Share of the images whose label is the most probable class.",
    "val/top5": "Share of the images whose label is among the five most probable classes.",
    "val/macc": "Mean over the classes of the share that is found.",
    "val/nll": "Mean negative logarithm of the probability of the label, whatever the criterion.",
    "val/ece": "Expected calibration error: how far probabilities are from how often they are right, in 15 bins.",
    "val/wrong": "The most confident mistakes. Some of them may be wrong labels.",
    "val/worst": "The validation images with the lowest IoU (mean over the classes in their label), the lowest first.",
    "val/most_confused": "Which classes are taken for which.",
    "perf/img_per_s": "Images trained on per second, over all ranks.",
    "perf/step_s": "Seconds per step, with what is logged but without evaluations.",
    "perf/data_s": "Seconds per step spent waiting for data.",
    "perf/data_share": "Share of the time spent waiting for data. Above a few percent: more data.workers.",
    "perf/cpu_rss_gib": "Memory of the training process in GiB, without its loader processes.",
    "perf/gpu_mem_gib": "Most memory of the GPU that tensors took, in GiB.",
    "perf/gpu_mem_reserved_gib": "Most memory of the GPU that the process held, in GiB.",
    "perf/gpu_util": "Share of the time in which the GPU did something, as its driver says.",
    "probe/panel": "Image, label, prediction and errors of fixed images. Show actual image size to read it.",
    "probe/train": "The same of training images, not augmented. Good here and bad above: it overfits.",
    "mining/overlay": "Mined pixels in magenta, boundaries of the label in white.",
    "mining/classes": "Which classes the mined pixels of the fixed images belong to, the highest lift first.",
    "mining/loss_map": "Loss of each pixel on a logarithmic scale; the mined pixels are enclosed in white.",
    "mining/curve": "How much of the loss the hardest share p of the pixels holds.",
    "mining/histogram": "How many pixels have which loss, and from where on they are mined.",
    "val/confusion": "Rows are labels, columns predictions, in percent of the row.",
    "data/batch": "Images and labels as the model is trained on, after augmentation: the next batch when the process "
    "begins, and the first one of the epoch after.",
}

Charts = dict[str, dict[str, list[str]]]  # category → chart → what its tags match; TensorBoard matches at the beginning
# of a tag, hence the $
_MINING: Charts = {
    "mining": {
        "share of the pixels: asked for, kept, natural p": [
            r"mining/top_p_target$",
            r"mining/top_p_effective$",
            r"mining/pixels_for_99pct_loss$",
        ],
        "loss: minimised, of all pixels": [r"train/loss$", r"train/loss_all$"],
        "share of the loss that is kept": [r"mining/loss_share$"],
        "smallest loss that is kept": [r"mining/threshold$"],
        "lift of classes (1 = kept like any pixel)": [r"mining/class_lift/"],
        "lift near boundaries (1 = kept like any pixel)": [r"mining/boundary_lift$"],
        "change of what is mined (churn)": [r"mining/churn$"],
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
            "mIoU of the weights and of their average": [r"val/miou$", r"val_ema/miou$"],
            "IoU of classes": [r"val/iou/"],
            "IoU of classes, averaged weights": [r"val_ema/iou/"],
            "IoU at boundaries, 3 px": [r"val/boundary_iou_3px$", r"val_ema/boundary_iou_3px$"],
            "loss: of validation, of all training pixels": [r"val/loss$", r"val_ema/loss$", r"train/loss_all$"],
        },
    },
    "classification": {
        **_MINING,
        "validation": {
            "top-1, top-5, mean of classes": [r"val/top1$", r"val/top5$", r"val/macc$"],
            "top-1 of the weights and of their average, in training": [
                r"val/top1$",
                r"val_ema/top1$",
                r"train/accuracy$",
            ],
            "calibration error": [r"val/ece$"],
            "loss: of validation, of all training images": [r"val/loss$", r"train/loss_all$"],
        },
    },
}


def meaning(tag: str) -> str:
    """What `tag` means, in a sentence or two; empty where there is nothing to say."""
    if tag.startswith(f"{AVERAGED}/"):
        words = meaning(tag.replace(AVERAGED, RAW, 1))
        return words and f"{words} Here of the averaged weights (EMA)."
    group = "/".join(tag.split("/")[:2]) + "/"
    return _MEANINGS.get(tag) or _MEANINGS.get(group, "")
