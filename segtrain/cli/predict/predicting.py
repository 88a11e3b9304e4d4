"""What `segtrain predict` does once its flags are read."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from segtrain import distributed
from segtrain.cli.common import FAILED, USAGE
from segtrain.cli.loaded import inference, trained
from segtrain.cli.predict.inputs import Images, Inputs, Item, Videos, ahead
from segtrain.cli.predict.outputs import SUFFIXES, TABLE, Outputs
from segtrain.errors import ConfigError, DataError
from segtrain.inference import Inference
from segtrain.memory import memory_for
from segtrain.predictor import SMALLER, Labels, Pixels, Predictor, to_labels
from segtrain.task import probabilities

LARGEST_WHOLE = 1 << 24  # pixels; larger images are looked at through windows, unless told how
WINDOW = (1024, 1024)
_NAMED = 5  # classes per line


class Answer(NamedTuple):
    """What is said of one image: shares of classes, the largest first; or why nothing is said."""

    image: str
    classes: list[tuple[str, float]]
    seconds: float
    row: Sequence[Any] = ()  # of predictions.csv
    error: str = ""


def run(args: argparse.Namespace) -> int:
    """The whole job; returns the exit code, which is that of a failure if an image could not be read."""
    way = inference(args)
    inputs: Inputs = Videos(args.inputs, args.every) if args.video else Images(args.inputs, args.max_pixels)
    job = _job(args, Predictor(trained(args)), way)
    job.outputs.check(inputs.places() if job.outputs.kinds else [], folders=args.video, overwrite=args.overwrite)
    began, done, failed = time.perf_counter(), 0, 0
    with tqdm(total=inputs.total, unit="img", disable=True if args.quiet else None, leave=False) as bar:
        for answer in job.answers(ahead(iter(inputs))):
            done += 1
            bar.update()
            if answer.error:
                failed += 1
                tqdm.write(f"error: {answer.error}", file=sys.stderr)
                continue
            if done - failed == 1:
                job.outputs.begin(job.columns)
            job.outputs.row(answer.row)
            if not args.quiet:
                tqdm.write(_line(done, max(done, inputs.total), answer), file=sys.stdout)
    if not args.quiet and done > failed:
        pace = (done - failed) / (time.perf_counter() - began)
        print(f"{done - failed} of {done} images in {args.out / TABLE}, {pace:.3g} images/s")
    distributed.stop()
    if done == failed:
        return USAGE
    return FAILED if failed else 0


def _job(args: argparse.Namespace, predictor: Predictor, way: Inference) -> Classify | Segment:
    task, kinds = predictor.task, [kind for kind in SUFFIXES if getattr(args, kind, False)]
    if task.kind == "segmentation":
        return Segment(predictor, way, Outputs(args.out, task, ["labels", *kinds]))
    if kinds or way.window:
        flag = f"--{kinds[0]}" if kinds else "--window"
        raise ConfigError(f"{flag}: {args.checkpoint} is a classifier, which names whole images; leave {flag} out")
    return Classify(predictor, way, Outputs(args.out, task, []), min(args.topk, task.num_classes))


class Classify(NamedTuple):
    """Names images."""

    predictor: Predictor
    way: Inference
    outputs: Outputs
    topk: int

    @property
    def columns(self) -> list[str]:
        """The head of predictions.csv."""
        return ["image", *(f"{what}_{rank}" for rank in range(1, self.topk + 1) for what in ("class", "probability"))]

    def answers(self, items: Iterator[Item]) -> Iterator[Answer]:
        """In the order of the items."""
        for group in _groups(self.predictor, items, self.way.batch):
            began = time.perf_counter()
            fine = [image for _, image in group if not isinstance(image, DataError)]
            if fine:
                best = probabilities(self.predictor.logits(fine, self.way)).topk(self.topk, 1)
                found = iter(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            seconds = (time.perf_counter() - began) / len(group)
            for item, image in group:
                if isinstance(image, DataError):
                    yield Answer(item.name, [], seconds, error="; ".join(image.messages))
                    continue
                names = [(self.predictor.classes[i], share) for i, share in zip(*next(found), strict=True)]
                row = [item.name, *(cell for name, share in names for cell in (name, f"{share:.6f}"))]
                yield Answer(item.name, names, seconds, row)


class Segment(NamedTuple):
    """Writes label maps."""

    predictor: Predictor
    way: Inference
    outputs: Outputs

    @property
    def columns(self) -> list[str]:
        """The head of predictions.csv: the share of each class in an image."""
        return ["image", "labels", *self.predictor.classes]

    def answers(self, items: Iterator[Item]) -> Iterator[Answer]:
        """In the order of the items."""
        for group in _groups(self.predictor, items, self.way.batch):
            fine = [(item, image) for item, image in group if not isinstance(image, DataError)]
            for item, image in group:
                if isinstance(image, DataError):
                    yield Answer(item.name, [], 0.0, error="; ".join(image.messages))
            if fine:
                yield from self._written(fine)

    def _written(self, group: list[tuple[Item, Pixels]]) -> Iterator[Answer]:
        began = time.perf_counter()
        (first, image), name = group[0], self.predictor.classes
        assert not isinstance(first.image, DataError)
        way = self.way
        if way.window is None and image.shape[0] * image.shape[1] > LARGEST_WHOLE:
            way = replace(way, window=WINDOW)
        many: list[Iterator[tuple[Labels, npt.NDArray[np.float32] | None]]]
        if way.window is not None and image is first.image:
            many = [self._bands(one, way) for _, one in group]
        else:
            size = first.image.shape[:2]
            logits = self.predictor.logits([one for _, one in group], way, size)
            many = [iter([self._of(part)]) for part in torch.split(logits, 1)]
        shared = (time.perf_counter() - began) / len(group)
        for (item, _), bands in zip(group, many, strict=True):
            assert not isinstance(item.image, DataError)
            began = time.perf_counter()
            pixels = self.outputs.write(item.place, item.image, bands)
            seconds = shared + time.perf_counter() - began
            shares = pixels / pixels.sum()
            order = [i for i in np.argsort(-pixels, kind="stable")[:_NAMED].tolist() if pixels[i]]
            file = self.outputs.paths(item.place)["labels"].relative_to(self.outputs.folder)
            row = [item.name, file.as_posix(), *(f"{share:.6f}" for share in shares)]
            yield Answer(item.name, [(name[i], float(shares[i])) for i in order], seconds, row)

    def _bands(self, image: Pixels, way: Inference) -> Iterator[tuple[Labels, npt.NDArray[np.float32] | None]]:
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        with memory_for(lambda: "x".join(map(str, tensor.shape)), self.predictor.device, SMALLER):
            for logits in way.bands(self.predictor.net, tensor):
                yield self._of(logits)

    def _of(self, logits: torch.Tensor) -> tuple[Labels, npt.NDArray[np.float32] | None]:
        """Of logits [1, C, h, W]: labels [h, W] and, if they are asked for, probabilities [K, h, W]."""
        wanted = "probabilities" in self.outputs.kinds
        return to_labels(logits)[0], probabilities(logits)[0].cpu().numpy() if wanted else None


def _groups(predictor: Predictor, items: Iterator[Item], batch: int) -> Iterator[list[tuple[Item, Pixels | DataError]]]:
    """Neighbours of one size as prepared and, in a segmentation, as they came: up to `batch`, of large ones fewer."""
    group: list[tuple[Item, Pixels | DataError]] = []
    shape: Any = None
    for item in items:
        image = item.image
        if not isinstance(image, DataError):
            try:
                image = predictor.prepared(image, item.name)
            except DataError as error:
                image = error
        # an error is told in its place among the answers
        form = None
        if not isinstance(image, DataError) and not isinstance(item.image, DataError):
            form = (image.shape, item.image.shape if predictor.task.kind == "segmentation" else ())
        another = form is not None and shape not in (None, form)
        large = form is not None and len(group) * form[0][0] * form[0][1] >= LARGEST_WHOLE
        if group and (another or large or len(group) == batch):
            yield group
            group, shape = [], None
        group.append((item, image))
        shape = shape or form
    if group:
        yield group


def _line(number: int, total: int, answer: Answer) -> str:
    shares = ", ".join(f"{name} {100 * share:.3g} %" for name, share in answer.classes)
    return f"img {number:>{len(str(total))}}/{total}  {answer.seconds:.3f} s  {answer.image}  {shares}"
