"""README.md of an export: what the model is, what it was trained on, how good it is, and how it is used."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from segtrain import __version__
from segtrain.config.writer import plain_config, to_yaml
from segtrain.history import deciding, evaluations
from segtrain.trained import Trained

_SHOWN = 40  # scores of single classes


def card(
    model: Trained,
    args: argparse.Namespace,
    dynamic: tuple[str, ...],
    shape: Sequence[int],
    checks: Sequence[str],
    compared_on: str,
) -> str:
    """Markdown."""
    task, config = model.task, model.config
    weights = config.validate.weights if args.weights == "auto" else args.weights
    network = ", ".join(f"{key}: {value}" for key, value in plain_config(config)["model"].items() if value is not None)
    parts = [
        f"# {task.kind.capitalize()} of {task.num_classes} classes",
        f"Exported by segtrain {__version__} on {datetime.now(timezone.utc):%Y-%m-%d} from `{args.checkpoint}`: step "
        f"{model.step:,}, {'averaged (ema)' if weights == 'ema' else 'raw'} weights. Model: {network}.",
        "## Input and output\n\n" + _interface(model, args.answer, dynamic, shape),
        "## Files\n\n" + "\n".join(f"    {line}" for line in checks) + f"\n\nCompared with PyTorch on {compared_on}.",
        "## Use\n\n" + _use(args.format, args.answer),
        "## Classes\n\n| number | class | colour |\n|---|---|---|\n" + _classes(model),
        "## Metrics\n\n" + _metrics(model, args.checkpoint, weights),
        "## Training data\n\n" + _data(config),
        f"## Versions\n\nsegtrain {__version__}, torch {torch.__version__}, Python {platform.python_version()}.",
        "## Configuration\n\n```yaml\n" + to_yaml(config).rstrip() + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _interface(model: Trained, answer: str, dynamic: tuple[str, ...], shape: Sequence[int]) -> str:
    batch = "batch" if "batch" in dynamic else str(shape[0])
    size = "height, width" if "hw" in dynamic else f"{shape[2]}, {shape[3]}"
    pixels = f", {size}" if model.task.kind == "segmentation" else ""
    channels = model.task.channels(model.link)
    outputs = {
        "logits": f"`logits`, float32 [{batch}, {channels}{pixels}]"
        + (": above 0 is class 1" if channels == 1 else ": the largest is the class"),
        "softmax": f"`softmax`, float32 [{batch}, {model.task.num_classes}{pixels}]: probabilities",
        "argmax": f"`argmax`, {'uint8' if pixels else 'int64'} [{batch}{pixels}]: class numbers",
    }
    prepare = plain_config(model.config)["data"]["val_prepare"]
    before = f"\n* Before: images were prepared by `data.val_prepare`: {prepare}" if prepare else ""
    return (
        f"* Input `image`: uint8 [{batch}, 3, {size}], RGB, 0 to 255. Normalisation and padding are inside.{before}\n"
        f"* Output {outputs[answer]}."
    )


def _use(formats: Sequence[str], answer: str) -> str:
    image = "image = np.array(Image.open('photo.jpg').convert('RGB')).transpose(2, 0, 1)[None]"
    uses = {
        "onnx": f"import onnxruntime\nsession = onnxruntime.InferenceSession('model.onnx')\n"
        f"({answer},) = session.run(None, {{'image': image}})",
        "pt2": f"import torch\nmodel = torch.export.load('model.pt2').module()\n"
        f"{answer} = model(torch.from_numpy(image))",
        "safetensors": "from safetensors.torch import load_file\nweights = load_file('model.safetensors')"
        "  # of the model in config.yaml: tools/train.py --config config.yaml --init model.safetensors",
    }
    blocks = "\n".join(uses[name] for name in formats)
    return f"```python\nimport numpy as np\nfrom PIL import Image\n{image}\n{blocks}\n```"


def _classes(model: Trained) -> str:
    rows = zip(model.task.classes, model.task.palette, strict=True)
    return "\n".join(f"| {index} | {name} | {list(color)} |" for index, (name, color) in enumerate(rows))


def _metrics(model: Trained, checkpoint: Path, weights: str) -> str:
    """What the run recorded of these weights at this step, or else what the checkpoint knows."""
    run = checkpoint if checkpoint.is_dir() else checkpoint.parent.parent
    rows = [row for row in evaluations(run) if row.get("step") == model.step]
    if rows:
        scores = list(deciding(rows[-1], weights).items())[:_SHOWN]
        table = "\n".join(f"| {tag} | {value:.4f} |" for tag, value in scores)
        return f"On the validation data at step {model.step:,}:\n\n| | |\n|---|---|\n{table}"
    if model.best is not None:
        metric, value, step = model.best
        return f"The best {metric} of the run was {value:.4f}, at step {step:,}. `tools/val.py` gives all scores."
    return "None are recorded. `tools/val.py` measures them."


def _data(config: Any) -> str:
    data = plain_config(config)["data"]
    return "\n".join(f"* {split}: `{data[split]}`" for split in ("train", "val"))
