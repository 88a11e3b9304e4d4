"""Suggestions from real steps, and what is read out of a curve."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from segtrain.cli.tune import main
from segtrain.cli.tune.batch import Tried, largest, of_size
from segtrain.cli.tune.lr import measured, plot, read
from segtrain.task import Batch

TINY = str(Path(__file__).parents[1] / "tiny.yaml")
OURS = ["--import", "tiny_components", "--config", TINY, "--device", "cpu"]


def test_a_range_test_suggests_a_rate_draws_the_loss_and_changes_nothing_else(in_tmp, capsys):
    flags = ["lr", *OURS, "--min", "1e-4", "--max", "1e4", "--steps", "60"]
    assert main([*flags, "--json", "train.accumulate=2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rates"][0] == pytest.approx(1e-4)
    assert told["rates"][1] / told["rates"][0] == pytest.approx(1e8 ** (1 / 59))
    assert told["diverged"] is not None
    assert told["configured"] == 0.01
    assert 1e-4 < told["suggestion"] < told["fallen"] <= told["lowest"] < told["diverged"]
    drawn = ElementTree.parse("tune-lr-tiny.svg")
    assert {"1e-4", "1e-2"} <= {element.text for element in drawn.iter()}
    assert [path.name for path in in_tmp.iterdir()] == ["tune-lr-tiny.svg"]
    assert main(flags) == 2
    assert "tune-lr-tiny.svg exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert main([*flags, "--overwrite"]) == 0
    assert "optimizer.lr=" in capsys.readouterr().out


def test_every_group_keeps_its_ratio_and_the_rate_is_the_one_that_was_asked_for(tiny):
    built = tiny("optimizer.encoder_lr=1e-3", "optimizer.freeze_encoder=5")
    before = [parameter.clone() for parameter in built.learner.model.encoder.parameters()]
    points, _ = measured(built, 1e-5, 1e-3, 10)
    rates = {group["name"]: group["lr"] for group in built.learner.optimizer.param_groups}
    assert [rate for rate, _ in points] == pytest.approx([1e-5 * 100 ** (i / 9) for i in range(10)])
    assert rates["head"] == pytest.approx(1e-3)
    assert rates["encoder"] == pytest.approx(1e-4)
    after = built.learner.model.encoder.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "it is not frozen"


def test_a_loss_that_is_not_finite_ends_the_test_where_it_arose(tiny, monkeypatch):
    built = tiny("optimizer={name: sgd, lr: 1e-2}", "model.batch_norm=true")
    points, diverged = measured(built, 1e-3, 1e30, 30)
    assert diverged is not None
    assert all(rate < diverged and math.isfinite(loss) for rate, loss in points)


def curve(loss, count=100):
    rates = [1e-6 * 1e6 ** (i / (count - 1)) for i in range(count)]
    return [(rate, loss(math.log10(rate))) for rate in rates]


def test_the_suggestion_is_a_third_of_the_rate_at_which_the_fall_is_done():
    found = read(curve(lambda x: 2 - 1.5 * math.exp(-((x + 2) ** 2))), None)
    assert found.lowest == pytest.approx(1e-2, rel=0.2)
    assert found.suggestion == pytest.approx(10**-2.2 / 3, rel=0.2)
    assert found.steepest == pytest.approx(10**-2.7, rel=0.3)


def test_a_loss_that_stays_low_after_its_fall_does_not_move_the_suggestion_to_the_end():
    found = read(curve(lambda x: 2 - 1.5 / (1 + math.exp(-6 * (x + 3))) - 0.001 * x), None)
    assert found.lowest > 0.5
    assert found.suggestion == pytest.approx(10**-2.5 / 3, rel=0.4)


def test_noise_moves_the_suggestion_little_and_a_flat_loss_gives_none():
    noise = [0.1 * math.sin(12.9898 * i * i) for i in range(100)]
    points = curve(lambda x: 2 - 1.5 * math.exp(-((x + 2) ** 2)))
    noisy = [(rate, loss + noise[i]) for i, (rate, loss) in enumerate(points)]
    assert read(noisy, None).suggestion == pytest.approx(10**-2.2 / 3, rel=0.6)
    assert read([(rate, 2 + noise[i] / 10) for i, (rate, _) in enumerate(points)], None).suggestion is None


def test_a_plot_has_the_curve_and_the_rates(tmp_path):
    drawn = plot(read(curve(lambda x: (x + 2) ** 2), 1.0), "a < b")
    ElementTree.fromstring(drawn)
    assert "suggestion: " in drawn


def gpu_of(limit):
    """A GPU that a batch takes 1 GiB and 0.25 more per image of, and that ends at `limit` GiB."""
    return lambda size: Tried(size, 1 + size / 4 if 1 + size / 4 <= limit else None, float(size))


@pytest.mark.parametrize("limit", [2.0, 3.1, 7.0, 40.0])
def test_the_search_ends_at_an_eighth_below_the_largest_batch_that_fits(limit):
    tried = largest(gpu_of(2 * limit), limit, 2, 1024)
    best = max(one.size for one in tried if one.gib is not None and one.gib <= limit)
    exact = int(4 * (limit - 1))
    assert exact - max(1, exact // 8) <= best <= exact
    assert len(tried) == len({one.size for one in tried}), "no size is tried twice"


def test_the_search_knows_the_most_there_is_and_that_nothing_fits():
    assert [one.size for one in largest(gpu_of(100.0), 100.0, 2, 12)] == [2, 4, 8, 12]
    assert {one.size for one in largest(gpu_of(0.5), 0.5, 2, 64)} == {2, 1}


def test_a_batch_of_any_size_is_made_of_the_images_there_are():
    batch = Batch(torch.arange(3)[:, None], torch.arange(3), ("a", "b", "c"))
    assert of_size(batch, 5).ids == ("a", "b", "c", "a", "b")
    assert of_size(batch, 5).target.tolist() == [0, 1, 2, 0, 1]
    assert of_size(batch, 2).image.tolist() == [[0], [1]]


def test_what_cannot_be_tried_is_told_at_once(in_tmp, capsys):
    assert main(["batch", *OURS]) == 2
    assert "tune batch needs a GPU, and this runs on the CPU" in capsys.readouterr().err
    Path("file").write_text("")
    assert main(["lr", *OURS, "--out", "file/x.svg"]) == 2
    assert "/file is no folder" in capsys.readouterr().err
    for wrong in (["--min", "1", "--max", "0.1"], ["--steps", "3"], ["--min", "-1"], ["--what"]):
        with pytest.raises(SystemExit, match="2"):
            main(["lr", *OURS, *wrong])
    with pytest.raises(SystemExit, match="2"):
        main(["batch", *OURS, "--fraction", "1.5"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_largest_batch_of_a_gpu(in_tmp, capsys):
    flags = [*OURS[:-1], "cuda", "--json", "--most", "8", "data.train.length=64"]
    assert main(["batch", *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["largest"] == 8
    assert all(one["gib"] > 0 for one in told["tried"])
