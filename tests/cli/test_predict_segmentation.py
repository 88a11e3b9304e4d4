"""predict with a model of pixels: label maps that lie where they belong, and nothing else touched."""

import csv
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import segtrain
from segtrain.cli.predict import main
from segtrain.cli.train import main as train

HERE = Path(__file__).parents[1]
OURS = ["--import", "tiny_components"]
SMALL = ["train.steps=4", "validate.every=4", "checkpoint.every=4", "log.pictures=0"]


@pytest.fixture
def model(in_tmp):
    """A run in run/, and pictures in photos/: two of one size in a folder below, one of another size."""
    assert train([*OURS, "--config", str(HERE / "tiny.yaml"), "--run-dir", "run", "--quiet", *SMALL]) == 0
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (20, 30)), ("town/b.png", (24, 32)), ("town/c.png", (24, 32))):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return segtrain.load("run", device="cpu", modules=["tiny_components"])


def ask(*arguments):
    return main([*OURS, "--checkpoint", "run", *map(str, arguments)])


def written(folder="predictions"):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def rows(folder="predictions"):
    with open(Path(folder, "predictions.csv"), newline="") as file:
        return list(csv.DictReader(file))


def labels(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def test_each_image_gets_an_index_png_with_the_palette_at_its_place(model, capsys):
    assert ask("photos") == 0
    assert written() == ["a.png", "predictions.csv", "town/b.png", "town/c.png"]
    for name in ("a.jpg", "town/b.png", "town/c.png"):
        path = Path("predictions", name).with_suffix(".png")
        assert np.array_equal(labels(path), model.predict(Path("photos", name)))
        with Image.open(path) as image:
            flat = [value for color in model.task.palette for value in color]
            assert image.getpalette()[: len(flat)] == flat
    told = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    assert told[0].startswith("img 1/3  ")
    assert "photos/a.jpg" in told[0]
    assert " %" in told[0]
    assert told[-1].startswith("3 of 3 images in predictions/predictions.csv, ")


def test_the_table_has_the_share_of_each_class(model):
    assert ask("photos", "--quiet") == 0
    table = rows()
    assert [row["labels"] for row in table] == ["a.png", "town/b.png", "town/c.png"]
    for row in table:
        shares = np.bincount(labels(Path("predictions", row["labels"])).ravel(), minlength=len(model.classes))
        expected = shares / shares.sum()
        assert [float(row[name]) for name in model.classes] == pytest.approx(expected.tolist(), abs=1e-6)


def test_colours_overlay_and_probabilities_come_on_request(model):
    assert ask("photos/a.jpg", "--color", "--overlay", "--probabilities", "--quiet") == 0
    assert written() == ["a.color.png", "a.overlay.jpg", "a.png", "a.probabilities.npy", "predictions.csv"]
    expected = np.asarray(model.task.palette, np.uint8)[labels("predictions/a.png")]
    assert np.array_equal(np.array(Image.open("predictions/a.color.png")), expected)
    overlay = np.array(Image.open("predictions/a.overlay.jpg")).astype(float)
    mixed = 0.5 * np.array(Image.open("photos/a.jpg")) + 0.5 * expected
    assert np.abs(overlay - mixed).mean() < 12, "a JPEG of it"
    shares = np.load("predictions/a.probabilities.npy", mmap_mode="r")
    assert (shares.dtype, shares.shape) == (np.float16, (len(model.classes), 20, 30))
    np.testing.assert_allclose(shares, model.probabilities("photos/a.jpg"), atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--window", "16x8"], {"window": (16, 8)}),
        (["--window", "16", "--stride", "5x7", "--batch", "3"], {"window": (16, 16), "stride": (5, 7)}),
        (["--tta", "flip"], {"flip": True}),
        (["--tta", "ms", "--scales", "0.5,1", "--batch", "1"], {"flip": True, "scales": (0.5, 1.0)}),
    ],
)
def test_windows_and_views_are_those_of_load(model, flags, options):
    assert ask("photos", "--quiet", *flags) == 0
    for name in ("a.jpg", "town/b.png"):
        path = Path("predictions", name).with_suffix(".png")
        assert np.array_equal(labels(path), model.predict(Path("photos", name), **options))


def test_a_large_image_is_looked_at_through_windows_by_itself(model, monkeypatch):
    from segtrain.cli.predict import predicting

    monkeypatch.setattr(predicting, "LARGEST_WHOLE", 24 * 32 - 1)
    monkeypatch.setattr(predicting, "WINDOW", (8, 8))
    assert ask("photos", "--quiet", "--color", "--overlay", "--probabilities") == 0
    assert np.array_equal(labels("predictions/a.png"), model.predict("photos/a.jpg"))
    windows = model.probabilities("photos/town/b.png", window=(8, 8))
    np.testing.assert_allclose(np.load("predictions/town/b.probabilities.npy"), windows, atol=1e-3)
    assert np.array_equal(labels("predictions/town/b.png"), windows.argmax(0))


def test_an_overlay_of_a_large_image_is_thinned_out(model, monkeypatch):
    from segtrain.cli.predict import outputs as predict_outputs

    monkeypatch.setattr(predict_outputs, "_LARGEST_OVERLAY", 10)
    assert ask("photos/town/b.png", "--quiet", "--overlay", "--window", "9") == 0
    with Image.open("predictions/b.overlay.jpg") as image:
        assert image.size == (8, 6)


def test_a_mapped_array_is_an_image(model):
    array = np.random.default_rng(1).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    np.save("large.npy", array)
    assert ask("large.npy", "--quiet", "--window", "16") == 0
    assert np.array_equal(labels("predictions/large.png"), model.predict(array, window=(16, 16)))


def test_lists_and_patterns_keep_the_folders_below_them(model):
    Path("photos/list.txt").write_text("town/b.png\na.jpg\n")
    assert ask("photos/list.txt", "--quiet", "--out", "of_list") == 0
    assert written("of_list") == ["a.png", "predictions.csv", "town/b.png"]
    assert ask("photos/**/*.png", "--quiet", "--out", "of_pattern") == 0
    assert written("of_pattern") == ["predictions.csv", "town/b.png", "town/c.png"]
    assert ask("photos/town/b.png", os.path.abspath("photos/a.jpg"), "--quiet", "--out", "of_files") == 0
    assert written("of_files") == ["a.png", "b.png", "predictions.csv"]


def test_nothing_is_overwritten_unless_told(model, capsys):
    Path("predictions/town").mkdir(parents=True)
    Path("predictions/town/c.png").write_text("mine")
    assert ask("photos") == 2
    assert "predictions/town/c.png would be overwritten; choose another --out, or add --overwrite" in (
        capsys.readouterr().err
    )
    assert written() == ["town/c.png"]
    assert Path("predictions/town/c.png").read_text() == "mine"
    assert ask("photos", "--overwrite", "--quiet") == 0
    assert labels("predictions/town/c.png").shape == (24, 32)


def test_two_images_for_one_place_are_refused_before_anything_is_written(model, capsys):
    Image.open("photos/a.jpg").save("photos/a.png")
    assert ask("photos") == 2
    assert "photos/a.jpg and photos/a.png would both be written to predictions/a.png" in capsys.readouterr().err
    assert not Path("predictions").exists()


def test_one_corrupt_file_among_many_is_named_and_the_rest_are_done(model, capsys):
    for index in range(100):
        Image.fromarray(np.full((9, 9, 3), 2 * index, np.uint8)).save(f"photos/{index:03}.png")
    whole = Path("photos/050.png").read_bytes()
    Path("photos/050.png").write_bytes(whole[: len(whole) // 2])
    assert ask("photos") == 1
    told = capsys.readouterr()
    assert told.err.count("error:") == 1
    assert "error: photos/050.png cannot be read" in told.err
    assert "102 of 103 images" in told.out
    assert len(rows()) == 102
    assert not Path("predictions/050.png").exists()
    assert Path("predictions/051.png").exists()
    assert not [name for name in written() if name.endswith(".tmp")]


def test_an_image_with_too_many_pixels_is_refused_or_allowed(model, capsys):
    assert ask("photos/a.jpg", "--max-pixels", "599") == 2
    assert "photos/a.jpg has more than" in capsys.readouterr().err
    assert ask("photos/a.jpg", "--max-pixels", "600", "--overwrite") == 0


def test_images_of_one_pixel_have_a_label(model):
    Image.new("L", (1, 1)).save("dot.png")
    assert ask("dot.png", "--tta", "ms", "--window", "64", "--quiet") == 0
    assert labels("predictions/dot.png").shape == (1, 1)


def test_a_folder_that_cannot_be_written_is_one_message(model, capsys):
    Path("file").write_text("")
    assert ask("photos", "--out", "file/below") == 2
    told = capsys.readouterr().err
    assert "cannot write to file" in told
    assert told.count("error:") == 1
    Path("predictions").mkdir()
    Path("predictions/town").write_text("a file where a folder belongs")
    assert ask("photos") == 2
    assert "cannot write to predictions/town" in capsys.readouterr().err


@pytest.fixture
def film(in_tmp):
    """clip.avi with 7 frames, each of one colour."""
    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 24))
    for index in range(7):
        video.write(np.full((24, 32, 3), (30 * index, 100, 255 - 30 * index), np.uint8))
    video.release()
    return "clip.avi"


def test_the_frames_of_a_video_are_images(model, film, capsys):
    assert ask("--video", film, "--every", "3", "--color") == 0
    numbers = ["000001", "000004", "000007"]
    expected = sorted(f"clip/{number}{end}" for number in numbers for end in (".png", ".color.png"))
    assert written() == [*expected, "predictions.csv"]
    assert [row["image"] for row in rows()] == ["clip.avi#1", "clip.avi#4", "clip.avi#7"]
    assert "img 3/3 " in capsys.readouterr().out
    last = np.full((24, 32, 3), (75, 100, 180), np.uint8)  # red, green, blue
    assert (labels("predictions/clip/000007.png") == model.predict(last)).mean() > 0.9, "but for the JPEG in it"
    assert ask("--video", film) == 2
    assert "predictions/clip, predictions/predictions.csv would be overwritten" in capsys.readouterr().err


def test_what_is_no_video_is_one_clear_message(model, capfd):
    for name, message in (("photos/list.txt", "does not exist"), ("run/config.yaml", "cannot be opened as a video")):
        assert ask("--video", name) == 2
        told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(told) == 1
        assert message in told[0]
    assert not Path("predictions").exists()
