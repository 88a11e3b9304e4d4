"""`segtrain data browse`: a contact sheet of samples, as they are on disk or as the network sees them."""

from __future__ import annotations

import argparse
import itertools
import random

import cv2
import numpy as np

from segtrain.build import training_loader
from segtrain.cli.data.common import component, opened
from segtrain.cli.folders import write_files
from segtrain.config import Config
from segtrain.data.dataset import Dataset
from segtrain.errors import ConfigError
from segtrain.maker import Maker
from segtrain.observers import pictures
from segtrain.task import Sample


def run(args: argparse.Namespace) -> int:
    """Draw the picture and say where it is."""
    config, _, maker = opened(args.config, args)
    if args.augmented and args.split != "train":
        raise ConfigError("--augmented --split val: validation samples are never augmented; leave one of the flags out")
    dataset = maker.make(component(config, args.split))
    if args.augmented:
        shown = _augmented(config, maker, dataset, args.n)
    else:
        chosen = random.Random(config.seed).sample(range(len(dataset)), min(args.n, len(dataset)))
        shown = [dataset[index] for index in sorted(chosen)]
    images, targets, ids = zip(*shown, strict=True)
    sheet = pictures.samples(images, targets, ids, dataset.labels.task(dataset.kind))
    name = f"{args.config.stem}-{args.split}{'-augmented' * args.augmented}.png"
    _, encoded = cv2.imencode(".png", sheet[..., ::-1])
    write_files(args.out, {name: encoded.tobytes()}, overwrite=args.overwrite)
    what = f"the first {len(shown)} samples as trained on" if args.augmented else f"{len(shown)} of {len(dataset):,}"
    print(f"{args.out / name}: {what}, {sheet.shape[1]}x{sheet.shape[0]}")
    return 0


def _augmented(config: Config, maker: Maker, dataset: Dataset, count: int) -> list[Sample]:
    """The first `count` samples of the first training batches: the pixels that the model is given."""
    loader = training_loader(config, maker, dataset)
    given = itertools.chain.from_iterable(
        zip(batch.image.permute(0, 2, 3, 1).numpy(), batch.target.numpy(), batch.ids, strict=True)
        for batch in loader.start()
    )
    first = itertools.islice(given, count)
    return [Sample(np.ascontiguousarray(image), target, name) for image, target, name in first]
