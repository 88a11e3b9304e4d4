"""Help and completion: there at once, because nothing heavy is imported for them."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segtrain.cli import COMMANDS, main
from segtrain.cli.completion import places

ROOT = Path(__file__).parents[2]
ASK = """
import contextlib, importlib, io, json, sys
from segtrain.cli import main
told = {}
for place in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*place.split(), "--help"])
    heavy = {"torch", "numpy", "pydantic", "yaml", "PIL", "cv2"} & set(sys.modules)
    assert not heavy, f"segtrain {place} --help imports {heavy}"
    told[place] = out.getvalue()
print(json.dumps(told))
"""
PLACES = [place.words for place in places()]


@pytest.mark.parametrize(("given", "then"), [({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")])
def test_commands_ask_for_large_pages_before_torch_is_imported_unless_told_otherwise(given, then):
    ask = "import os, sys, segtrain.cli; print(os.environ['THP_MEM_ALLOC_ENABLE'], 'torch' in sys.modules)"
    others = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    result = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, env=others | given)
    assert result.stdout.split() == [then, "False"]


def test_the_help_of_every_command_has_examples_and_imports_nothing_heavy():
    command = [sys.executable, "-c", ASK, json.dumps(PLACES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    for place in PLACES:
        assert "usage: " in told[place]
        assert "example" in told[place], f"segtrain {place} --help shows no example"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_door_in_tools(name):
    door = (ROOT / "tools" / f"{name}.py").read_text()
    assert f"from segtrain.cli.{name} import main" in door
    assert importlib.import_module(f"segtrain.cli.{name}").__doc__.startswith(f"`segtrain {name}`")
    assert (
        (ROOT / "tools" / f"{name}.py").read_text().startswith(f'"""`segtrain {name}` from a checkout: python tools/')
    )


def test_every_door_leads_to_a_command():
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == set(COMMANDS)


def test_a_misspelt_command_is_told_the_right_one(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


COMPLETED = [
    (["conf"], {"config", "completion"} & {"config"}),
    (["config", "che"], {"check"}),
    (["data", "check", "--a"], {"--all"}),
    (["train", "--conf"], {"--config"}),
    (["train", "--config", "x.yaml", "--device", ""], {"auto", "cpu", "cuda"}),
    (["data", "convert", "--to", "im"], {"image_folder"}),
    (["completion", ""], {"bash", "zsh"}),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_flags_and_values(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, _ in COMPLETED:
        script += f"COMP_WORDS=(segtrain {' '.join(word or chr(39) * 2 for word in words)})\n"
        script += f'COMP_CWORD={len(words)}; COMPREPLY=(); _segtrain; echo "${{COMPREPLY[*]}}"\n'
    result = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [set(line.split()) for line in result.stdout.splitlines()] == [expected for _, expected in COMPLETED]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes_commands_flags_and_values(capsys):
    assert main(["completion", "zsh"]) == 0
    # its own functions only work at a prompt; these say what they are asked to offer
    offers = (
        "compdef() { }; compadd() { print -r -- ${(P)2} }; _files() { print files }\n"
        "_describe() { print -r -- ${${(M)${(P)2}:#${words[CURRENT]}*}%%:*} }\n"
    )
    script = offers + capsys.readouterr().out
    for words, _ in COMPLETED:
        script += f"words=(segtrain {' '.join(word or chr(39) * 2 for word in words)}); CURRENT={len(words) + 1}\n"
        script += "_segtrain\n"
    result = subprocess.run(["zsh", "-fc", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for line, (words, expected) in zip(result.stdout.splitlines(), COMPLETED, strict=True):
        assert expected <= set(line.split()), (words, line)


def test_a_command_leaves_the_signals_of_its_caller_as_they_were(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["config", "ls"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
