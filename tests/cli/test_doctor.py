"""What the doctor finds, on this machine and in installations that are broken on purpose."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segtrain.cli.doctor import main
from segtrain.cli.doctor.machine import disk, runs_on
from segtrain.cli.doctor.ranks import together
from segtrain.cli.doctor.software import owners_of_cv2, packages
from segtrain.processors import cpu_quota

ROOT = Path(__file__).parents[2]


def installed(folder, name, version, *, files=(), requires=()):
    """Makes a package look installed in `folder`."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    (about / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_this_machine_is_looked_at_in_all_respects(in_tmp, capsys):
    code = main(["--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {one["what"] for one in found} >= {"python", "packages", "import", "cv2", "gpu", "threads", "memory", "disk"}
    assert code == int(any(one["state"] == "problem" for one in found))
    assert all(one["remedy"] for one in found if one["state"] != "ok")
    assert not list(in_tmp.iterdir())
    main(["--quick"])
    assert "problem" in capsys.readouterr().out.splitlines()[-1]


def test_two_packages_that_own_cv2_are_a_problem_with_the_commands_that_repair_it(tmp_path, monkeypatch):
    for name in ("opencv-python", "opencv-python-headless"):
        installed(tmp_path, name, "5.0.0", files=["cv2/__init__.py"])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (finding,) = owners_of_cv2()
    assert finding.state == "problem"
    assert "2 packages own site-packages/cv2: opencv-python 5.0.0, opencv-python-headless 5.0.0" in finding.seen
    assert finding.remedy == (
        "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
    )


def test_missing_and_outdated_packages_are_named_with_what_to_install(tmp_path, monkeypatch):
    wanted = ["numpy>=99", "not-there>=2", 'never; sys_platform == "nowhere"', 'onnx-x>=1; extra == "export"', "pillow"]
    installed(tmp_path, "segtrain", "0.1.0", requires=wanted)
    monkeypatch.syspath_prepend(str(tmp_path))
    bad, extra = packages()
    assert bad.state == "problem"
    assert "numpy " in bad.seen
    assert "where >=99 is needed" in bad.seen
    assert "not-there is missing" in bad.seen
    assert bad.remedy == "pip install 'numpy>=99' 'not-there>=2'"
    assert (extra.state, extra.remedy) == ("note", "pip install 'segtrain[export]', if you want it")


def test_a_torch_that_cannot_be_imported_is_a_finding_and_no_traceback(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    result = subprocess.run(
        [sys.executable, "-m", "segtrain", "doctor", "--quick"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "torch: ImportError: libcudart.so.13" in result.stdout
    assert "→ pip install --force-reinstall torch" in result.stdout
    assert "memory" in result.stdout, "the rest is looked at all the same"
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("capability", "compiled", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_75", "sm_100"], False),
    ],
)
def test_which_gpus_a_build_of_torch_has_code_for(capability, compiled, runs):
    assert runs_on(capability, compiled) is runs


def test_the_processors_that_a_container_is_given(tmp_path):
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("400000")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert cpu_quota(tmp_path) == 4


def test_a_place_that_cannot_be_written_and_data_that_are_not_there_are_problems(in_tmp, monkeypatch, capsys):
    Path("file").write_text("")
    (finding,) = disk(Path("file/runs"), measure=True)
    assert finding.state == "problem"
    assert "nothing can be written" in finding.seen
    monkeypatch.setenv("SEGTRAIN_DATA", str(in_tmp / "gone"))
    assert main(["--quick"]) == 1
    assert "gone, which is no folder" in capsys.readouterr().out.replace("\n" + " " * 18, " ")


@pytest.mark.distributed
def test_two_processes_add_up_a_number_or_say_why_not(monkeypatch):
    (finding,) = together("cpu", 2)
    assert finding.state == "ok", finding
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    (finding,) = together("cpu", 2)
    assert finding.state == "problem"
    assert "cannot add up a number through gloo" in finding.seen
