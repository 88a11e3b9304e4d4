"""Every command of the documents does what stands there, with settings behind it that make it short."""

import contextlib
import importlib
import io
import re
import shutil
from configparser import ConfigParser
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, RUN, SMALL, commands, furnish
from torch.distributed.run import get_args_parser

from segtrain.build import register_components
from segtrain.cli import config
from segtrain.cli.completion import places
from segtrain.cli.train import main as train

SHORT = {  # what is put behind a command to make it short
    "train": [*SMALL, "--limit-train", "4", "--limit-val", "2"],
    "bench": ["--part", "loader,step", "--steps", "1", "data.workers=0"],
    "tune lr": ["--steps", "10", "model={name: tiny}"],
    "config cp": ["--overwrite"],  # my.yaml is there for the commands beside it
    "data synth": ["--n", "4", "--size", "16x32"],
    "mining": ["--limit", "2"],
}
CLASSIFIER = ["model={name: tiny_classifier}"]
CHECKED = {  # read by the command's parser, its configuration with its overrides checked, and why no more than that
    r"--config (configs/)?(drive|stanford_cars)": "data sets that cannot be made up",
    r"sweep\.py --config": "18 runs; test_sweep runs small ones",
    r"--run-dir /nfs/": "a file system of the machines",
    r"tune batch": "needs a GPU",
    r"train.compile=true": "needs a compiler, and a minute",
    r"--import benchmarks\.corrupted": "the run that benchmarks/suspects.py leaves",
}
SLOW = (r"tools/export\.py", r"segtrain bench")
OTHERS = {  # programs that are not ours, and why they are not started
    r"python3 -m venv \.venv": "the network; .ci/run begins so",
    r"\S*pip install ('?\.|-e|segtrain)": "the network; what they install is looked up below",
    r"\S*pre-commit install": "changes the checkout",
    r"tensorboard --logdir runs": "a server",
    r"scontrol show hostnames": "Slurm",
    r"bash \.ci/(run|oldest)": "they run these tests",
    r"bash benchmarks/gpu\.sh": "needs a GPU",
}
ALL = list(dict.fromkeys(command for document in DOCUMENTS for command in commands(document)))
PLACES = {place.words: place for place in places()}


def of_torchrun(arguments):
    """What torchrun makes of its arguments; that of torch 2.10 has no --shutdown-timeout yet."""
    parser = get_args_parser()
    if "--shutdown-timeout" not in parser.format_help():
        arguments = [word for word in arguments if not word.startswith("--shutdown-timeout=")]
    return parser.parse_args(arguments)


def ours(words):
    """The command of ours that these words start and its arguments, under torchrun those of each rank, or nothing."""
    first, *rest = words[1:] if words[0] == "srun" else words
    if first == "torchrun":
        parsed = of_torchrun(rest)
        first, rest = "python", [parsed.training_script, *parsed.training_script_args]
    if first == "segtrain":
        return rest[0], rest[1:]
    if Path(first).name.startswith("python") and (found := re.fullmatch(r"tools/(\w+)\.py", rest[0])):
        return found[1], rest[1:]
    return None


def place(name, arguments):
    """What stands behind `segtrain`: `data check`, `train`."""
    return next((p for p in (" ".join([name, *arguments[:1]]), name) if p in PLACES), None)


def read(name, arguments):
    """What the command's own parser makes of the arguments, or nothing if it refuses them."""
    module = importlib.import_module(f"segtrain.cli.{name}")
    parse = module.parser().parse_args if PLACES[name].commands else module.parser().parse_intermixed_args
    parse = getattr(module, "parsed", parse)
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        return parse(arguments)
    return None


def only_named(command):
    """Whether a sentence speaks of a command that it does not spell out: `tools/data.py check`."""
    name, arguments = ours(command.words)
    return command.inline and (" ".join([name, *arguments]) in PLACES or read(name, arguments) is None)


def matching(patterns, command):
    return [pattern for pattern in patterns if re.search(pattern, " ".join(command.words))]


OURS = [command for command in ALL if ours(command.words)]
NAMED = [command for command in OURS if only_named(command)]
TYPED = list({command.words: command for command in OURS if command not in NAMED}.values())
CHECKABLE = [command for command in TYPED if matching(CHECKED, command)]
RUNNABLE = [
    pytest.param(command, marks=pytest.mark.slow if matching(SLOW, command) else (), id=str(command))
    for command in TYPED
    if command not in CHECKABLE
]


@pytest.fixture(scope="session")
def furnished(tmp_path_factory):
    """The folder of a reader who has trained what the documents speak of."""
    folder = tmp_path_factory.mktemp("reader")
    register_components(["tiny_components"])
    furnish(folder)
    folders = ["data.train.root=my_data", "data.val.root=my_data", *CLASSIFIER]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, changes in {"camvid": [], "bootstrap": [], "image_folder": folders}.items():
            where = ["--config", f"configs/{name}.yaml", "--run-dir", f"runs/{name}/{RUN}", "--quiet"]
            assert train([*where, *SHORT["train"], *changes]) == 0
    shutil.copy(folder / f"runs/camvid/{RUN}/checkpoints/best.pt", folder / "best.pt")
    return folder


@pytest.fixture
def reader(furnished, tmp_path, monkeypatch):
    """A copy of it, and the reader in it."""
    folder = shutil.copytree(furnished, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("SEGTRAIN_DATA", raising=False)
    return folder


@pytest.mark.parametrize("command", RUNNABLE)
def test_a_command_does_what_the_document_says(command, reader, capsys):
    name, arguments = ours(command.words)
    short = [*SHORT.get(place(name, arguments), []), *(CLASSIFIER if "configs/image_folder.yaml" in arguments else [])]
    assert importlib.import_module(f"segtrain.cli.{name}").main([*arguments, *short]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", CHECKABLE, ids=str)
def test_a_command_that_is_not_run_here_is_understood(command, reader, capsys):
    name, arguments = ours(command.words)
    args = read(name, arguments)
    assert args is not None
    if "config" in args:
        assert config.main(["check", str(args.config), *args.overrides]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", NAMED, ids=str)
def test_a_command_that_is_only_named_exists_with_its_flags(command):
    known = place(*ours(command.words))
    assert known is not None
    assert {word for word in command.words if word.startswith("--")} <= {"--help", *PLACES[known].flags}


@pytest.mark.parametrize("command", [command for command in ALL if not ours(command.words)], ids=str)
def test_a_command_of_others_is_a_test_a_benchmark_or_left_out_with_a_reason(command):
    words = list(command.words)
    if words[0] == "torchrun":
        parsed = of_torchrun(words[1:])
        words = ["python", parsed.training_script, *parsed.training_script_args]
    if "pytest" in words[:3]:
        assert all((ROOT / word).exists() for word in words if word.startswith("tests"))
        assert "-m" not in words[3:] or words[words.index("-m", 3) + 1] == "slow"
    elif words == ["python", "docs/api.py"]:
        pass  # test_api compares what it prints
    elif len(words) > 1 and words[1].startswith("benchmarks/") and words[0] == "python":
        source = (ROOT / words[1]).read_text()
        assert all(f'add_argument("{word}"' in source for word in words if word.startswith("--"))
    else:
        assert matching(OTHERS, command), f"{command}: run it here, or say why not"
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extra in re.findall(r"install .*\[(\w+)\]", " ".join(words)):
        assert setup.has_option("options.extras_require", extra)


def test_every_reason_not_to_run_a_command_is_still_needed():
    unneeded = [pattern for pattern in CHECKED if not any(matching([pattern], command) for command in TYPED)]
    unneeded += [pattern for pattern in OTHERS if not any(matching([pattern], command) for command in ALL)]
    assert not unneeded
