"""What real runs have left, as a user looks at it."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from segtrain.cli.runs import main
from segtrain.cli.runs.report import page
from segtrain.cli.train import main as train

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in the criterion: mined, in a folder with a hostile name, and plain."""
    root = tmp_path_factory.mktemp("runs")
    ours = ["--import", "tiny_components", "--config", str(TINY), "--quiet", "--device", "cpu"]
    assert train([*ours, "--run-dir", str(root / "<script>alert(1)<" / "mined")]) == 0
    assert train([*ours, "--run-dir", str(root / "plain"), "criterion={name: cross_entropy}"]) == 0
    return root


@pytest.fixture
def mined(runs):
    return runs / "<script>alert(1)<" / "mined"


def told(capsys, *arguments):
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_ls_and_show_say_how_runs_stand(runs, mined, capsys):
    listed = json.loads(told(capsys, "ls", runs, "--json"))
    assert [(one["status"], one["step"]) for one in listed] == [("finished", "8/8")] * 2
    assert str(mined) in told(capsys, "ls", runs)
    shown = json.loads(told(capsys, "show", mined, "--json"))
    assert f"val/miou {shown['scores']['val_ema/miou']:.4f} (ema) at 8" in told(capsys, "show", mined)
    assert shown["environment"]["ranks"] == 1


def test_a_run_that_says_running_without_a_process_has_died(runs, capsys):
    status = runs / "plain" / "status.json"
    before = status.read_text()
    status.write_text(before.replace("finished", "running"))
    listed = {one["run"]: one["status"] for one in json.loads(told(capsys, "ls", runs, "--json"))}
    status.write_text(before)
    assert listed[str(runs / "plain")] == "died"


def test_compare_shows_scores_differences_and_what_is_configured_otherwise(runs, mined, capsys):
    both = json.loads(told(capsys, "compare", mined, runs / "plain", "--json"))
    assert [one["config"]["criterion.name"] for one in both] == ["bootstrapped_ce", "cross_entropy"]
    assert "optimizer.lr" not in both[0]["config"]
    text = told(capsys, "compare", mined, runs / "plain")
    assert f"{both[1]['scores']['val/miou'] - both[0]['scores']['val/miou']:+.4f}" in text
    assert "the configurations are the same" in told(capsys, "compare", mined, mined)


def test_a_plot_is_a_file_with_a_line_for_each_run(runs, mined, capsys, in_tmp):
    assert told(capsys, "plot", mined, runs / "plain").strip() == "val-miou.svg"
    drawn = Path("val-miou.svg").read_text()
    assert drawn.count("<polyline") == 2
    assert "<script" not in drawn
    assert main(["plot", str(mined), "--key", "val/miuo"]) == 2
    assert "did you mean 'val/miou'?" in capsys.readouterr().err


def test_clean_deletes_nothing_until_told_and_never_what_is_kept_or_in_use(mined, capsys):
    folder = mined / "checkpoints"
    before = {path.name for path in folder.iterdir()}
    assert "would delete" in told(capsys, "clean", mined)
    assert {path.name for path in folder.iterdir()} == before
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(mined / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert "a process is writing it" in told(capsys, "clean", mined, "--yes")
        other.communicate(b"\n")
    assert {path.name for path in folder.iterdir()} == before
    told(capsys, "clean", mined, "--yes")
    assert {path.name for path in folder.iterdir()} == {"best.pt", "last.pt", "step-8.pt"}, "last is step-8, not a copy"
    told(capsys, "clean", mined, "--keep", "best", "--yes")
    assert {path.name for path in folder.iterdir()} == {"best.pt"}


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.sources += [found[key] for key in ("src", "href") if key in found]
        self.ids.append(found.get("id"))


def test_the_report_is_complete_in_itself_and_escapes_what_users_named(mined, capsys):
    with open(mined / "config.yaml", "a") as config:
        config.write("# </pre><script>alert(2)</script>\n")
    assert told(capsys, "report", mined).strip() == str(mined / "report.html")
    text = (mined / "report.html").read_text()
    seen = _Page(text)
    assert {"svg", "img", "table", "pre"} <= set(seen.tags)
    assert "script" not in seen.tags
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in seen.sources), "nothing is fetched"
    assert {source[1:] for source in seen.sources if source[0] == "#"} <= set(seen.ids)
    for words in ("mIoU", "person", "Smallest loss that is kept", "bootstrapped_ce", "python"):
        assert words in text, words


def test_the_report_of_a_run_that_has_just_begun_says_so(in_tmp):
    (in_tmp / "new").mkdir()
    (in_tmp / "new" / "status.json").write_text('{"status": "running", "step": 0, "best": null}')
    assert "There was no evaluation yet" in page(in_tmp / "new")


def test_what_is_no_run_is_refused_with_a_hint(runs, capsys):
    assert main(["show", str(runs)]) == 2
    assert f"below it are {runs}" in capsys.readouterr().err
