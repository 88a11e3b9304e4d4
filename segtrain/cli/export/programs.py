"""Files that a model is exported to, and how each of them is run again."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save

from segtrain.deployed import Deployed
from segtrain.errors import ConfigError

Images = npt.NDArray[np.uint8]  # [B, 3, H, W]
Runner = Callable[[Images], npt.NDArray[Any]]


class Plan(NamedTuple):
    """What is exported: the model, an example of its input, which sizes may vary."""

    model: Deployed
    example: Images
    dynamic: tuple[str, ...]
    opset: int
    about: dict[str, str]  # goes into the file

    @property
    def axes(self) -> dict[int, str]:
        """The names of the axes of the input that may vary."""
        return {
            **({0: "batch"} if "batch" in self.dynamic else {}),
            **({2: "height", 3: "width"} if "hw" in self.dynamic else {}),
        }


def export_onnx(plan: Plan, path: Path) -> None:
    """An ONNX file with its weights inside, made by torch's exporter over torch.export."""
    onnx = _needed("onnx")
    _needed("onnxscript")
    with _quiet():
        program = torch.onnx.export(
            _program(plan),
            (),
            dynamo=True,
            input_names=["image"],
            output_names=[plan.model.answer],
            opset_version=plan.opset,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    written = next(one.version for one in proto.opset_import if not one.domain)
    if written != plan.opset:  # the exporter only says so in a warning
        raise ConfigError(f"--opset {plan.opset}: torch {torch.__version__} gives {written} instead; name that one")
    _name_axes(proto, plan.axes)
    for key, value in plan.about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(proto, path)


def run_onnx(plan: Plan, path: Path) -> Runner:
    """The file in onnxruntime on the CPU."""
    runtime = _needed("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"image": images})[0])


def export_pt2(plan: Plan, path: Path) -> None:
    """A torch.export archive: torch.export.load(path).module()."""
    with _quiet():
        torch.export.save(_program(plan), path, extra_files=plan.about)


def run_pt2(plan: Plan, path: Path) -> Runner:
    """The archive, loaded."""
    with _quiet():
        module = torch.export.load(path).module()
    return lambda images: np.asarray(module(torch.from_numpy(images)).numpy())


def export_safetensors(plan: Plan, path: Path) -> None:
    """The weights alone; config.yaml beside them says of which model."""
    weights = {name: value.contiguous().clone() for name, value in plan.model.model.state_dict().items()}
    path.write_bytes(save(weights, metadata=plan.about))


def run_safetensors(plan: Plan, path: Path) -> Runner:
    """The same model with the weights of the file."""
    model = copy.deepcopy(plan.model)
    model.model.load_state_dict(load_file(path))
    return lambda images: np.asarray(model(torch.from_numpy(images)).numpy())


FORMATS: dict[str, tuple[Callable[[Plan, Path], None], Callable[[Plan, Path], Runner]]] = {
    "onnx": (export_onnx, run_onnx),
    "pt2": (export_pt2, run_pt2),
    "safetensors": (export_safetensors, run_safetensors),
}


def _program(plan: Plan) -> torch.export.ExportedProgram:
    shapes = dict.fromkeys(plan.axes, torch.export.Dim.DYNAMIC) or None
    program = torch.export.export(
        plan.model,
        (torch.from_numpy(plan.example),),
        dynamic_shapes=(shapes,),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    # What tracing assumed of the example's size, such as that it had to be padded, becomes assertions. The graph does
    # not depend on them, and the comparison afterwards is with images of several sizes.
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _name_axes(proto: Any, axes: dict[int, str]) -> None:
    """Call the axes that vary by their names, everywhere in the graph."""
    sides = proto.graph.input[0].type.tensor_type.shape.dim
    names = {sides[axis].dim_param: name for axis, name in axes.items() if sides[axis].dim_param}
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), side.dim_param)


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--format onnx needs {module}, which is not installed; pip install 'segtrain[export]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of what is none of a user's business, and print."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def about(classes: Sequence[str], palette: Sequence[Sequence[int]], answer: str) -> dict[str, str]:
    """What a file says of itself."""
    return {
        "classes": json.dumps(list(classes)),
        "palette": json.dumps([list(color) for color in palette]),
        "input": "uint8 [batch, 3, height, width], RGB; normalisation is inside",
        "output": answer,
    }
