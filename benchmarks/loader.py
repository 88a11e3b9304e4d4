"""Loading samples: segtrain against what people write with Albumentations, torchvision and mmsegmentation.

    OMP_NUM_THREADS=1 SEGTRAIN_DATA=… python benchmarks/loader.py --rounds 9

All take a random window of 512x512 from 2048x1024 pixels scaled by 0.5 to 2, flip it, and give batches of 8. One
process, one thread, processor time; the variants run in turn over the same images, a batch each, and ratios are those
of medians. segtrain and mmsegmentation leave normalising to the device, the others do it where their documentation does
it: on the processor; "uint8" is the same without it. Cityscapes cannot be handed out: its files are made of photographs
of CamVid, put side by side and enlarged until a PNG is about as large as one of Cityscapes (2.3 MB), labels likewise.

* Albumentations: cv2.imread, cvtColor, RandomScale, PadIfNeeded, RandomCrop, HorizontalFlip, Normalize, ToTensorV2.
* torchvision: Pillow, v2.RandomShortestSize, RandomCrop(pad_if_needed), flip, ToDtype(scale), Normalize on tv_tensors,
  as in its own references/segmentation.
* mmsegmentation, where it is installed (pip install mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine ftfy regex):
  LoadImageFromFile, LoadAnnotations, RandomResize, RandomCrop(cat_max_ratio=0.75), RandomFlip, PackSegInputs of its
  Cityscapes pipeline, without PhotoMetricDistortion, which nobody else here has. mmcv-lite lacks the compiled operators
  that mmsegmentation imports; a pipeline uses none, so an empty module stands in for them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from segtrain.build import register_components
from segtrain.data.cache import Cached
from segtrain.data.camvid import camvid
from segtrain.data.cityscapes import CLASSES, LABELS, cityscapes
from segtrain.data.crop import RandomScaleCrop
from segtrain.data.dataset import Dataset
from segtrain.data.feed import Key, Source, one_batch
from segtrain.data.pairs import Pairs
from segtrain.data.transforms import compose
from segtrain.registry import TRANSFORMS
from segtrain.task import Sample

CAMVID_AS_IDS = [CLASSES[name][0] for name in ("sky", "building", "pole", "road", "sidewalk", "vegetation")]
CAMVID_AS_IDS += [CLASSES[name][0] for name in ("traffic sign", "fence", "car", "person", "rider")] + [0]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 8
Load = Callable[[int, int], Any]  # (index, epoch) → a sample


def make_cityscapes(folder: Path, source: Pairs, count: int, enlarged: float = 1.35) -> None:
    """`count` images of 2048x1024 and their labelIds, from photographs and labels side by side."""
    width, height = round(480 * enlarged), round(360 * enlarged)
    across, down = -(-2048 // width), -(-1024 // height)
    table = np.zeros(256, np.uint8)
    table[: len(CAMVID_AS_IDS)] = CAMVID_AS_IDS
    for i in range(count):
        tiles = [source[(i * across * down + j) % len(source)] for j in range(across * down)]
        image = _mosaic([cv2.resize(t.image, (width, height), interpolation=cv2.INTER_CUBIC) for t in tiles], across)
        small = [cv2.resize(t.target, (width, height), interpolation=cv2.INTER_NEAREST) for t in tiles]
        for kind, name, array in (
            ("leftImg8bit", "leftImg8bit", image),
            ("gtFine", "gtFine_labelIds", table[_mosaic(small, across)]),
        ):
            file = folder / kind / "train" / "made" / f"made_{i:06d}_000019_{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(file)


def _mosaic(tiles: list[Any], across: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows = [np.hstack(tiles[start : start + across]) for start in range(0, len(tiles), across)]
    return np.ascontiguousarray(np.vstack(rows)[:1024, :2048])


# ---- segtrain


def ours(dataset: Dataset, size: tuple[int, int], *, in_part: bool = True) -> Load:
    crop = RandomScaleCrop(255, size=size, scale=(0.5, 2.0))
    flip = TRANSFORMS["HorizontalFlip"](255, p=0.5)
    source = Source(dataset, compose([crop, flip] if in_part else [_as_it_is, crop, flip]), 0)
    return lambda index, epoch: source[Key(epoch, index)]


def _as_it_is(sample: Sample, rng: np.random.Generator) -> Sample:
    return sample


# ---- what others write


def with_albumentations(read: Callable[[int], tuple[Any, Any]], size: tuple[int, int], *, normalize: bool) -> Load:
    steps = [
        A.RandomScale(scale_limit=(-0.5, 1.0), p=1.0),
        A.PadIfNeeded(*size, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255),
        A.RandomCrop(*size),
        A.HorizontalFlip(p=0.5),
        *([A.Normalize(MEAN, STD)] if normalize else []),
        A.ToTensorV2(),
    ]
    transform = A.Compose(steps)

    def load(index: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = read(index)
        done = transform(image=image, mask=mask)
        return done["image"], done["mask"].long()

    return load


def with_torchvision(read: Callable[[int], tuple[Any, Any]], size: tuple[int, int], height: int) -> Load:
    transform = v2.Compose(
        [
            v2.RandomShortestSize(list(range(height // 2, 2 * height + 1))),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def load(index: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = read(index)
        image = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
        image, mask = transform(image, tv_tensors.Mask(torch.from_numpy(mask)))
        return image, mask.long()

    return load


def with_mmsegmentation(size: tuple[int, int], scale: tuple[int, int], start: Callable[[int], Any]) -> dict[str, Load]:
    """Its transforms from what `start` gives on: file names, or images. Empty where it is not installed."""
    sys.modules.setdefault("mmcv._ext", _AnyOperator("mmcv._ext"))
    try:
        from mmcv.transforms import Compose, LoadImageFromFile, RandomFlip, RandomResize
        from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, RandomCrop
    except ImportError as error:
        print(f"without mmsegmentation: {error}")
        return {}
    steps = [
        RandomResize(scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
        RandomCrop(crop_size=size, cat_max_ratio=0.75),
        RandomFlip(prob=0.5),
        PackSegInputs(meta_keys=()),
    ]
    if "img_path" in start(0):
        steps = [LoadImageFromFile(), LoadAnnotations(), *steps]
    transform = Compose(steps)

    def load(index: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        done = transform(start(index))
        image, mask = done["inputs"], done["data_samples"].gt_sem_seg.data
        missing = (0, size[1] - image.shape[2], 0, size[0] - image.shape[1])  # its data preprocessor does that
        return F.pad(image, missing), F.pad(mask, missing, value=255)

    return {"mmsegmentation": load}


class _AnyOperator(types.ModuleType):
    """Has whatever is asked for, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return None


def its_files(dataset: Pairs) -> Callable[[int], Any]:
    def start(index: int) -> Any:
        pair = dataset.pairs[index]
        files = {"img_path": str(pair.image), "seg_map_path": str(pair.mask)}
        return files | {"reduce_zero_label": False, "label_map": None, "seg_fields": []}

    return start


def its_arrays(samples: list[Sample]) -> Callable[[int], Any]:
    def start(index: int) -> Any:
        image, target, _ = samples[index]
        arrays = {"img": image, "gt_seg_map": target, "img_shape": target.shape, "ori_shape": target.shape}
        return arrays | {"seg_fields": ["gt_seg_map"]}

    return start


def reader(dataset: Pairs, by: Literal["cv2", "pillow"], table: Any) -> Callable[[int], tuple[Any, Any]]:
    """Image and labels of a pair of files, as users of the named library read them; labels through `table`."""

    def read(index: int) -> tuple[Any, Any]:
        pair = dataset.pairs[index]
        if by == "cv2":
            image = cv2.cvtColor(cv2.imread(str(pair.image)), cv2.COLOR_BGR2RGB)
            return image, cv2.LUT(cv2.imread(str(pair.mask), cv2.IMREAD_GRAYSCALE), table)
        image = np.array(Image.open(pair.image).convert("RGB"))
        return image, cv2.LUT(np.array(Image.open(pair.mask)), table)

    return read


def in_memory(samples: list[Sample]) -> Callable[[int], tuple[Any, Any]]:
    return lambda index: (samples[index].image, samples[index].target)


class InMemory:
    """Decoded samples as a data set."""

    kind = "segmentation"

    def __init__(self, of: Pairs, samples: list[Sample]) -> None:
        self.labels, self._samples, self.path = of.labels, samples, of.path

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


# ---- measuring


def measure(title: str, variants: dict[str, Load], images: int, rounds: int, reference: str) -> None:
    """One batch of each variant in turn, over and over; prints medians per image and ratios to the reference."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, load in variants.items():
            began = time.process_time()
            samples = [load((turn * BATCH + i) % images, turn) for i in range(BATCH)]
            one_batch(samples) if isinstance(samples[0], Sample) else default_collate(samples)
            if turn:
                spent[name].append((time.process_time() - began) / BATCH)
    middle = {name: statistics.median(times) for name, times in spent.items()}
    print(f"\n**{title}**\n\n| | images/s per core | ms per image (quartiles) | times {reference} |\n|---|---|---|---|")
    for name, times in spent.items():
        low, _, high = (1e3 * q for q in statistics.quantiles(times, n=4))
        speed, ratio = 1 / middle[name], middle[reference] / middle[name]
        print(f"| {name} | {speed:.1f} | {1e3 * middle[name]:.2f} ({low:.2f}–{high:.2f}) | {ratio:.2f} |")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--images", type=int, default=16, help="how many different images of 2048x1024")
    args = p.parse_args()
    if "SEGTRAIN_DATA" not in os.environ:
        raise SystemExit("SEGTRAIN_DATA is not set; CamVid is needed below it")
    warnings.filterwarnings("ignore")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    register_components()
    photos = camvid(split="train")
    assert isinstance(photos, Pairs)
    with tempfile.TemporaryDirectory() as folder:
        make_cityscapes(Path(folder), photos, args.images)
        streets(Path(folder), args)
    stills(photos, args)
    print(
        f"\n{platform.machine()}, 1 thread, torch {torch.__version__}, Pillow {Image.__version__}, OpenCV "
        f"{cv2.__version__}, Albumentations {A.__version__}, load {os.getloadavg()[0]:.1f}, {date.today()}"
    )


def streets(folder: Path, args: argparse.Namespace) -> None:
    dataset = cityscapes(root=folder)
    files = [pair.image.stat().st_size for pair in dataset.pairs]
    table = LABELS["labelIds"]._lut
    size, samples = (512, 512), [dataset[i] for i in range(len(dataset))]
    held = in_memory(samples)
    alone = {
        "segtrain": ours(InMemory(dataset, samples), size),
        "Albumentations": with_albumentations(held, size, normalize=True),
        "Albumentations, uint8": with_albumentations(held, size, normalize=False),
        "torchvision v2": with_torchvision(held, size, 1024),
        **with_mmsegmentation(size, (2048, 1024), its_arrays(samples)),
    }
    measure("Transforms alone, 2048x1024 in memory", alone, len(dataset), args.rounds, "Albumentations")
    by_cv2, by_pillow = reader(dataset, "cv2", table), reader(dataset, "pillow", table)
    cache = Cached(dataset, folder / "cache")
    for i in range(len(cache)):
        cache[i]
    whole_way = {
        "segtrain": ours(dataset, size),
        "segtrain, decoding whole files": ours(dataset, size, in_part=False),
        "segtrain, cached": ours(cache, size),
        "Albumentations": with_albumentations(by_cv2, size, normalize=True),
        "Albumentations, uint8": with_albumentations(by_cv2, size, normalize=False),
        "torchvision v2": with_torchvision(by_pillow, size, 1024),
        **with_mmsegmentation(size, (2048, 1024), its_files(dataset)),
    }
    mean = statistics.mean(files) / 1e6
    title = f"From PNG files of 2048x1024, {mean:.2f} MB each"
    measure(title, whole_way, len(dataset), args.rounds, "Albumentations")


def stills(dataset: Pairs, args: argparse.Namespace) -> None:
    table = dataset.labels._lut
    size = (352, 480)
    variants = {
        "segtrain": ours(dataset, size),
        "Albumentations": with_albumentations(reader(dataset, "cv2", table), size, normalize=True),
        "Albumentations, uint8": with_albumentations(reader(dataset, "cv2", table), size, normalize=False),
        "torchvision v2": with_torchvision(reader(dataset, "pillow", table), size, 360),
        **with_mmsegmentation(size, (480, 360), its_files(dataset)),
    }
    rounds = 3 * args.rounds
    measure("From CamVid's JPEG files of 480x360, window 352x480", variants, len(dataset), rounds, "Albumentations")


if __name__ == "__main__":
    main()
