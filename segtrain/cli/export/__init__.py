"""`segtrain export`: a trained model as a file that runs elsewhere, compared with the model that it came from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_json, add_model, add_traceback, new_parser, positive, size

EXAMPLES = """examples:
  tools/export.py --checkpoint runs/camvid/20261121-001502
  tools/export.py --checkpoint best.pt --format onnx,pt2,safetensors --argmax --out product/model
  tools/export.py --checkpoint best.pt --size 512x1024 --dynamic none --images photos
  tools/export.py --checkpoint runs/cars/best.pt --softmax

exit code: 0 exported and equal, 1 the export differs from the model or could not be made (nothing is left), 2 a mistake
"""
FORMATS = ("onnx", "pt2", "safetensors")
DYNAMIC = ("batch", "hw")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = new_parser(
        "export",
        "Export a trained model, run the export on real images against the model, and write a model card. "
        "Takes RGB images uint8 [batch, 3, height, width]; normalisation and padding are inside.",
        EXAMPLES,
    )
    add_model(p, device=False)
    p.add_argument("--format", type=formats, default=("onnx",), metavar="F,F", help="onnx, pt2, safetensors (onnx)")
    answer = p.add_mutually_exclusive_group()
    answer.add_argument("--softmax", dest="answer", action="store_const", const="softmax", help="give probabilities")
    answer.add_argument("--argmax", dest="answer", action="store_const", const="argmax", help="give class numbers")
    p.add_argument("--size", type=size, metavar="HxW", help="the size of images, where it is fixed (that of the first)")
    p.add_argument("--dynamic", type=dynamic, metavar="batch,hw", help="what may vary; none: nothing (batch,hw)")
    p.add_argument("--opset", type=positive, default=20, metavar="N", help="of ONNX (20)")
    p.add_argument("--images", nargs="+", metavar="INPUT", help="images to compare on (default: those of data.val)")
    p.add_argument("--check", type=positive, default=3, metavar="N", help="compare on N images (3)")
    p.add_argument("--tolerance", type=float, default=1e-3, metavar="T", help="allowed, relative to the largest (1e-3)")
    p.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: export in the run)")
    add_json(p, "print one JSON object instead of lines")
    add_traceback(p)
    p.set_defaults(answer="logits", device="cpu")
    return p


def formats(text: str) -> tuple[str, ...]:
    """Names of formats, each once."""
    return _of(text, FORMATS)


def dynamic(text: str) -> tuple[str, ...]:
    """What may vary."""
    return () if text == "none" else _of(text, DYNAMIC)


def _of(text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= set(allowed):
        raise argparse.ArgumentTypeError(f"{', '.join(allowed)} are allowed, separated by commas; got {text!r}")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what exporting needs: help must not wait for torch."""
    args = parser().parse_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.export.exporting import run

    return guarded(lambda: run(args), show_traceback=args.traceback)
