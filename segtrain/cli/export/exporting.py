"""What `segtrain export` does once its flags are read."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from segtrain.cli.export.model_card import card
from segtrain.cli.export.programs import FORMATS, Images, Plan, Runner, about
from segtrain.cli.folders import main_folder, run_of
from segtrain.cli.loaded import trained
from segtrain.config.writer import to_yaml
from segtrain.data.files import named_files
from segtrain.data.scenes import Scenes
from segtrain.deployed import Deployed
from segtrain.errors import ConfigError, UserError
from segtrain.predictor import Pixels, Predictor, read_pixels
from segtrain.task import predict
from segtrain.trained import Trained

LARGEST_CHECKED = 1024  # pixels of a side of an image that is compared on
AGREEMENT = 0.999  # of the decisions; ties are decided by rounding


class ExportError(UserError):
    """An export that could not be made, or that differs from its model."""

    exit_code = 1


class Checked(NamedTuple):
    """How an export compares with its model."""

    file: str
    bytes: int
    difference: float  # the largest, absolute
    largest: float  # the largest answer, absolute
    agreement: float  # share of equal decisions
    seconds: float  # for one image
    model_seconds: float
    sizes: tuple[str, ...]  # of the inputs that were compared on


def run(args: argparse.Namespace) -> int:
    """The whole job; returns the exit code."""
    if not 0 <= args.tolerance < 1:
        raise ConfigError(f"--tolerance {args.tolerance}: expected a share of the largest answer, such as 1e-3")
    model = trained(args)
    out = args.out or run_of(args.checkpoint) / "export"
    deployed = Deployed(model.model.float(), args.answer)
    deployed.eval()
    for parameter in deployed.parameters():
        parameter.requires_grad_(False)
    images, where = examples(model, args)
    dynamic = (
        args.dynamic
        if args.dynamic is not None
        else (("batch", "hw") if model.task.kind == "segmentation" else ("batch",))
    )
    inputs = list(variants(images, dynamic, args.size or images[0].shape[:2]))
    plan = Plan(deployed, inputs[0], dynamic, args.opset, about(model.task.classes, model.task.palette, args.answer))
    with main_folder(out) as folder:
        assert folder is not None  # there is one rank
        checks = [export(plan, name, folder, inputs, args.tolerance) for name in args.format]
        (folder / "config.yaml").write_text(to_yaml(model.config), encoding="utf-8")
        classes = [{"name": n, "color": list(c)} for n, c in zip(model.task.classes, model.task.palette, strict=True)]
        (folder / "classes.json").write_text(json.dumps(classes, indent=2) + "\n", encoding="utf-8")
        text = card(model, args, dynamic, inputs[0].shape, [in_words(one, args.answer) for one in checks], where)
        (folder / "README.md").write_text(text, encoding="utf-8")
    if args.json:
        print(json.dumps({"out": str(out), "exports": [one._asdict() for one in checks], "compared_on": where}))
    else:
        print("\n".join([*(in_words(one, args.answer) for one in checks), f"compared on {where}", f"written to {out}"]))
    return 0


def export(plan: Plan, name: str, folder: Path, inputs: list[Images], tolerance: float) -> Checked:
    """Write one file, run it, and raise ExportError if it differs from the model."""
    write, opened = FORMATS[name]
    path = folder / f"model.{name}"
    vary = f"{' and '.join(plan.dynamic) or 'nothing'} varying"
    try:
        write(plan, path)
        runner = opened(plan, path)
    except (UserError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # exporters raise anything for what they cannot express
        raise ExportError(
            f"{path.name}: the exporter failed with {vary}: {_first_line(error)}; try --dynamic none or --dynamic "
            "batch with --size HxW, or another --format"
        ) from error
    return compared(plan.model, runner, path, inputs, tolerance)


@torch.no_grad()
def compared(model: Deployed, runner: Runner, path: Path, inputs: list[Images], tolerance: float) -> Checked:
    """The export against its model on all inputs."""
    difference = largest = equal = decisions = 0.0
    for images in inputs:
        size = "x".join(map(str, images.shape))
        expected = model.answered(model.model(torch.from_numpy(images))).numpy()  # as it was trained, not as traced
        try:
            given = runner(images)
        except Exception as error:  # runtimes raise their own
            raise ExportError(
                f"{path.name} does not run on images of {size}: {_first_line(error)}; a network that is bound to one "
                "size needs --dynamic batch (or none) with --size HxW"
            ) from error
        if given.shape != expected.shape or given.dtype != expected.dtype:
            raise ExportError(
                f"{path.name} gives {given.dtype} {given.shape} for images of {size}, the model {expected.dtype} "
                f"{expected.shape}"
            )
        if model.answer == "argmax":
            same = given == expected
        else:
            difference = max(difference, float(np.nan_to_num(np.abs(given - expected), nan=np.inf).max()))
            largest = max(largest, float(np.abs(expected).max()))
            same = _decided(given) == _decided(expected)
        equal, decisions = equal + float(same.sum()), decisions + same.size
    agreement = equal / decisions
    allowed = tolerance * max(1.0, largest)
    if difference > allowed or agreement < AGREEMENT:
        raise ExportError(
            f"{path.name} differs from the model: by up to {difference:.3g} of {largest:.3g} (allowed: {allowed:.3g}), "
            f"{100 * agreement:.3f} % of the decisions agree (needed: {100 * AGREEMENT:g} %); nothing is kept"
        )
    one = inputs[0]
    times = _seconds(lambda: runner(one)), _seconds(lambda: model(torch.from_numpy(one)))
    sizes = tuple("x".join(map(str, images.shape)) for images in inputs)
    seconds, model_seconds = (time / len(one) for time in times)
    return Checked(path.name, path.stat().st_size, difference, largest, agreement, seconds, model_seconds, sizes)


def examples(model: Trained, args: argparse.Namespace) -> tuple[list[Pixels], str]:
    """Images to compare on, prepared as in validation, and where they are from. Raises UserError."""
    predictor = Predictor(model)
    if args.images:
        files = named_files(args.images)[: args.check]
        return [_bounded(predictor.prepared(read_pixels(file), str(file))) for file in files], "the images given"
    try:
        data: Any = model.maker.make(model.config.data.val)
        samples = [data[index] for index in range(min(args.check, len(data)))]
        where = f"{len(samples)} images of data.val"
    except UserError as error:
        samples = [Scenes("val", args.check, (96, 128), seed=0)[index] for index in range(args.check)]
        where = f"{args.check} made-up scenes, because data.val is not here ({error.messages[0]}); give --images"
    return [_bounded(predictor.transformed(sample.image, sample.id)) for sample in samples], where


def variants(images: list[Pixels], dynamic: tuple[str, ...], size: tuple[int, int]) -> Iterator[Images]:
    """Batches as the export is to take them: the first of 2 images where their number may vary, the others of 1."""
    count = 2 if "batch" in dynamic else 1
    for index, image in enumerate(images):
        sized = image if "hw" in dynamic and index else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        planes = np.ascontiguousarray(np.asarray(sized, np.uint8).transpose(2, 0, 1)[None])
        yield np.concatenate([planes, planes[..., ::-1]]) if index == 0 and count == 2 else planes
        if index == 0 and count == 2:
            yield planes
        if "hw" in dynamic:
            height, width = planes.shape[2:]
            yield np.ascontiguousarray(planes[..., : max(1, height * 2 // 3), : max(1, width * 4 // 5 - 1)])
            if index == 0 and min(height, width) >= 64:  # sides that no network has to pad
                yield np.ascontiguousarray(planes[..., : height // 64 * 64, : width // 64 * 64])


def in_words(one: Checked, answer: str) -> str:
    """A line about an export."""
    agrees = f"{100 * one.agreement:.4g} % of the decisions agree"
    differs = "" if answer == "argmax" else f"largest difference {one.difference:.2g} of {one.largest:.3g}, "
    pace = f"{1000 * one.seconds:.1f} ms per image, PyTorch {1000 * one.model_seconds:.1f} ms"
    return f"{one.file:18} {one.bytes / 1e6:.1f} MB  {differs}{agrees}  {pace}"


def _bounded(image: Pixels) -> Pixels:
    return image[:LARGEST_CHECKED, :LARGEST_CHECKED]


def _decided(answers: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    decided: npt.NDArray[np.int64] = predict(torch.from_numpy(answers)).numpy()
    return decided


def _seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
