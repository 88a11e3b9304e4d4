"""What is installed: versions, whether it can be imported, who owns `cv2`."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

import segtrain
from segtrain.cli.doctor.finding import NOTE, OK, PROBLEM, Finding

IMPORTED = ("torch", "torchvision", "cv2", "albumentations", "timm", "segmentation_models_pytorch")
_EXTRAS = {"export": "tools/export.py", "shards": "reading shards with webdataset"}


def python() -> Iterator[Finding]:
    """The interpreter and where segtrain comes from."""
    seen = f"{platform.python_version()} ({sys.executable}) on {platform.platform()}"
    yield Finding(OK, "python", seen)
    yield Finding(OK, "segtrain", f"{segtrain.__version__} in {Path(segtrain.__file__).parent}")


def packages() -> Iterator[Finding]:
    """The installed versions against those that segtrain asks for."""
    try:
        wanted = [Requirement(text) for text in metadata.requires("segtrain") or []]
    except metadata.PackageNotFoundError:
        yield Finding(
            NOTE,
            "packages",
            "segtrain is used without being installed, so nothing says which versions it needs",
            "pip install -e . in its folder",
        )
        return
    missing: dict[str, list[str]] = {}
    bad, fit = list[str](), list[str]()
    for requirement in wanted:
        extra = next((name for name in _EXTRAS if f'extra == "{name}"' in str(requirement.marker)), "")
        if not extra and requirement.marker and not requirement.marker.evaluate():
            continue  # for another system, or for the tests
        version = _version(requirement.name)
        if version is None and extra:
            missing.setdefault(extra, []).append(requirement.name)
        elif version is None:
            bad.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            bad.append(f"{requirement.name} {version} where {requirement.specifier} is needed")
        elif not extra:
            fit.append(f"{requirement.name} {version}")
    if bad:
        names = " ".join(f"'{one.name}{one.specifier}'" for one in wanted if any(one.name in text for text in bad))
        yield Finding(PROBLEM, "packages", "; ".join(bad), f"pip install {names}")
    else:
        yield Finding(OK, "packages", ", ".join(fit))
    for extra, absent in missing.items():
        purpose = f"not installed, for {_EXTRAS[extra]} only: {', '.join(absent)}"
        yield Finding(NOTE, "packages", purpose, f"pip install 'segtrain[{extra}]', if you want it")


def imports() -> Iterator[Finding]:
    """Whether the packages that bring compiled code can be loaded, together."""
    for name in IMPORTED:
        try:
            module = importlib.import_module(name)
            if name == "torchvision":
                _use(module)
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0]
            yield Finding(PROBLEM, "import", f"{name}: {type(error).__name__}: {told}", _remedy(name, told))
            if name == "torch":
                return  # the others would say the same
    yield Finding(OK, "import", ", ".join(IMPORTED))


def _use(torchvision: ModuleType) -> None:
    """An operator of its compiled part, which is there only if it was built for the torch that is installed."""
    torch = importlib.import_module("torch")
    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)


def _remedy(name: str, told: str) -> str:
    if "libGL" in told or "libgthread" in told or "libxcb" in told:
        return (
            "pip uninstall -y opencv-python opencv-contrib-python opencv-python-headless && "
            "pip install opencv-python-headless (which needs no display)"
        )
    if name == "torchvision" and "torchvision::" in told:
        return "torch and torchvision do not belong together; pip install --upgrade torch torchvision"
    package = name.replace("_", "-").replace("cv2", "opencv-python-headless")
    return f"pip install --force-reinstall {package}"


def owners_of_cv2() -> Iterator[Finding]:
    """The packages that have put files into site-packages/cv2: two of them overwrite each other's."""
    owners = {}
    for distribution in metadata.distributions():
        if any(file.parts[:1] == ("cv2",) for file in distribution.files or []):
            owners[distribution.metadata["Name"]] = f"{distribution.metadata['Name']} {distribution.version}"
    if len(owners) > 1:
        names = " ".join(sorted(owners))
        seen = f"{len(owners)} packages own site-packages/cv2: {', '.join(sorted(owners.values()))}"
        remedy = f"pip uninstall -y {names} && pip install opencv-python-headless"
        yield Finding(PROBLEM, "cv2", seen, remedy)
    elif owners and "opencv-python-headless" not in owners:
        seen = f"{next(iter(owners.values()))} owns cv2; albumentations will bring opencv-python-headless beside it"
        remedy = f"pip uninstall -y {next(iter(owners))} && pip install opencv-python-headless"
        yield Finding(NOTE, "cv2", seen, remedy)
    elif owners:
        yield Finding(OK, "cv2", f"{next(iter(owners.values()))} alone")
    else:
        yield Finding(PROBLEM, "cv2", "no package owns cv2", "pip install opencv-python-headless")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
