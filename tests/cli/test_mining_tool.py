"""mining as a user meets it: what any p selects, on a run that has just ended."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segtrain import checkpoint
from segtrain.build import register_components
from segtrain.cli.mining import main, parser
from segtrain.cli.mining.run import run as mine
from segtrain.cli.train import main as train
from segtrain.errors import ConfigError
from segtrain.trained import load_trained

HERE = Path(__file__).parents[1]
OURS = ["--import", "tiny_components"]
CONFIG = ["--config", str(HERE / "tiny.yaml"), "log.pictures=0"]


@pytest.fixture
def run(in_tmp, capsys):
    """A short run in run/ with checkpoints of steps 4 and 8."""
    assert train([*OURS, *CONFIG, "--run-dir", "run"]) == 0
    capsys.readouterr()
    return Path("run")


def look(*arguments):
    return main([*OURS, "--checkpoint", "run", *map(str, arguments)])


def rows(name, folder="run/mining/val"):
    with open(Path(folder, name), newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_told_in_tables_files_and_pictures(run, capsys):
    assert look() == 0
    told = capsys.readouterr().out
    assert "val: 5 images" in told
    assert "99 % of the loss lies in the hardest" in told
    assert [line.split()[2] for line in told.splitlines() if line.startswith("run ->")] == ["25"], "the run's own p"
    assert "Overlap (Jaccard index)" in told
    assert told.splitlines()[-1].startswith("run/mining/val: ")
    written = {file.name for file in Path("run/mining/val").iterdir()}
    assert {"top_p.csv", "classes.csv", "curve.csv", "curve.svg", "classes.svg", "hardest.jpg"} <= written
    by_p = rows("top_p.csv")
    assert [float(row["p"]) for row in by_p] == [0.05, 0.1, 0.25, 0.5]
    shares = [float(row["loss_share"]) for row in by_p]
    assert shares == sorted(shares)
    assert all(float(row["threshold"]) > 0 and 0 < float(row["same_per_image"]) <= 1 for row in by_p)
    of_classes = rows("classes.csv")
    assert sum(float(row["share"]) for row in of_classes if row["p"] == "0.05") == pytest.approx(1, abs=1e-4)
    assert "sky" in Path("run/mining/val/classes.svg").read_text()


def test_the_numbers_are_those_of_the_model_on_all_pixels(run, tiny, capsys):
    assert look("--top-p", "0.1", "--split", "train", "--batch", 3, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    register_components(["tiny_components"])
    trained = load_trained(run, torch.device("cpu"))
    dataset = trained.maker.make(trained.config.data.train)
    losses, labels = [], []
    with torch.no_grad():
        for index in range(len(dataset)):
            sample = dataset[index]
            logits = trained.model(torch.from_numpy(sample.image).permute(2, 0, 1)[None])
            target = torch.from_numpy(sample.target).long()[None]
            loss = torch.nn.functional.cross_entropy(logits, target, ignore_index=255, reduction="none")
            losses.append(loss[target != 255])
            labels.append(target[target != 255])
    losses, labels = torch.cat(losses).numpy(), torch.cat(labels).numpy()
    hardest = np.argsort(-losses)[: int(0.1 * len(losses))]
    (mined,) = (one for one in told["top_p"] if one["p"] == 0.1)
    assert told["valid"] == len(losses)
    assert mined["pixels"] == len(hardest)
    assert mined["threshold"] == pytest.approx(losses[hardest[-1]], rel=0.01)
    assert mined["loss_share"] == pytest.approx(losses[hardest].sum() / losses.sum(), rel=0.01)
    assert mined["classes"]["road"]["share"] == pytest.approx((labels[hardest] == 3).mean(), abs=0.02)
    assert {one["p"] for one in told["top_p"]} == {0.1, 0.25}


def test_what_is_there_is_replaced_only_when_told_and_only_if_it_is_ours(run, capsys):
    assert look("--panels", 0) == 0
    before = Path("run/mining/val/top_p.csv").read_bytes()
    assert look("--top-p", "0.9") == 2
    assert "run/mining/val is not empty; give another --out, or --overwrite" in capsys.readouterr().err
    assert Path("run/mining/val/top_p.csv").read_bytes() == before
    assert look("--top-p", "0.9", "--overwrite") == 0
    assert [row["p"] for row in rows("top_p.csv")] == ["0.25", "0.9"]
    assert [path.name for path in Path("run/mining").iterdir()] == ["val"]
    Path("run/mining/val/notes.txt").write_text("mine")
    capsys.readouterr()
    assert look("--overwrite") == 2
    assert "holds notes.txt, which mining has not written" in capsys.readouterr().err
    assert Path("run/mining/val/notes.txt").exists()


def test_a_mistake_is_one_line_and_leaves_nothing(run, in_tmp, capsys):
    Path("file").write_text("")
    for arguments, message in (
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
        (["--checkpoint", "run", "--out", "file"], "file is not empty"),
        (["--checkpoint", "run", "--out", "file", "--overwrite"], "file holds file, which mining has not written"),
        (["--checkpoint", "run", "--out", "file/below"], "file/below"),
        (["--checkpoint", "run", "--device", "cuda:7"], "cuda:7"),
    ):
        assert main([*OURS, *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    for flags in (["--top-p", "0.1,2"], ["--top-p", "much"], ["--panels", "-1"], ["--boundary", "0"]):
        with pytest.raises(SystemExit) as end:
            look(*flags)
        assert end.value.code == 2
    assert not (run / "mining").exists()


def test_several_processes_would_write_the_same_files_and_are_refused(run, monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="start it without torchrun"):
        mine(parser().parse_args(["--checkpoint", "run"]))
    assert not (run / "mining").exists()


def test_no_more_checkpoints_are_read_than_are_compared(run, capsys):
    folder = run / "checkpoints"
    assert look("--suspects", 0) == 0
    (folder / "step-1.pt").write_bytes(b"damaged")
    assert look("--suspects", 0, "--overwrite") == 2, "a third one is looked for"
    assert "step-1.pt" in capsys.readouterr().err
    state = checkpoint.load(folder / "step-4.pt")
    checkpoint.save(folder / "step-6.pt", {**state, "step": 6})
    assert look("--suspects", 0, "--overwrite") == 0
    assert {"same_as_step_6", "same_as_step_4"} <= rows("top_p.csv")[0].keys()


def test_suspects_are_listed_with_their_places_and_drawn(run, capsys):
    assert look("--suspects", 7) == 0
    told = capsys.readouterr().out
    listed = rows("suspects.csv")
    assert f"the first {len(listed)} of {len(listed)} listed in suspects.csv" in told
    assert 0 < len(listed) <= 7
    scores = [float(row["score"]) for row in listed]
    assert scores == sorted(scores, reverse=True)
    for row in listed:
        left, top, right, bottom, area = (int(row[key]) for key in ("left", "top", "right", "bottom", "area"))
        assert 0 <= left < right <= 32
        assert 0 <= top < bottom <= 24
        assert 4 <= area <= (right - left) * (bottom - top)
        assert row["label"] != row["prediction"]
        assert row["image"].startswith("scenes/val/")
        assert 0 < float(row["confidence"]) <= 1
    assert Path("run/mining/val/suspects-1.jpg").exists()
    assert look("--suspects", 0, "--overwrite") == 0
    assert "probably wrong" not in capsys.readouterr().out
    assert not list(Path("run/mining/val").glob("suspects*")), "nothing of the earlier call is left"


def test_a_criterion_without_a_loss_per_pixel_is_ranked_by_cross_entropy(in_tmp, capsys):
    assert train([*OURS, *CONFIG, "--run-dir", "run", "criterion={name: dice}"]) == 0
    assert look("--panels", 0) == 0
    told = capsys.readouterr().out
    assert "hard is a large cross_entropy" in told
    assert "dice has no loss for each pixel; pixels are ranked by cross_entropy" in told
    assert "run ->" not in told


def test_images_of_a_classifier_are_mined_alike(colors, capsys):
    (colors / "val" / "red" / "0.png").rename(colors / "val" / "blue" / "wrong.png")
    changes = ["log.pictures=0", "criterion={name: cross_entropy}"]
    assert train([*OURS, "--config", str(HERE / "tiny_classifier.yaml"), "--run-dir", "run", *changes]) == 0
    capsys.readouterr()
    assert look() == 0
    told = capsys.readouterr().out
    assert "of 12 images labelled" in told
    assert "boundary" not in told
    (suspect, *_) = rows("suspects.csv")
    assert (suspect["image"], suspect["label"], suspect["prediction"]) == ("val/blue/wrong.png", "blue", "red")
    assert Path("run/mining/val/hardest.jpg").exists()


def test_help_does_not_wait_for_torch():
    code = "import sys; import segtrain.cli.mining; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=HERE.parent).returncode == 0
