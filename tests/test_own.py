import pytest

from segtrain.cli.train import main
from segtrain.errors import ConfigError
from segtrain.own import import_own


@pytest.mark.parametrize("name", ["own_by_name", "own_by_file.py", "below/own_below.py"])
def test_a_module_is_found_in_the_current_folder_and_by_its_file(in_tmp, name):
    (in_tmp / "below").mkdir()
    (in_tmp / (name if name.endswith(".py") else f"{name}.py")).write_text(
        f"from segtrain.registry import SCHEDULES\nSCHEDULES.register({name!r})(lambda run: None)\n"  #
    )
    import_own(name)
    import_own(name)  # twice is once
    from segtrain.registry import SCHEDULES

    assert name in SCHEDULES


def test_a_file_that_is_known_under_another_name_is_not_brought_in_twice(in_tmp, monkeypatch):
    monkeypatch.syspath_prepend(in_tmp)
    (in_tmp / "own_folder").mkdir()
    (in_tmp / "own_folder" / "own_twice.py").write_text(
        "from segtrain.registry import SCHEDULES\nSCHEDULES.register('own_twice')(lambda run: None)\n"
    )
    import_own("own_folder.own_twice")
    import_own("own_folder/own_twice.py")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import numpyy", "No module named 'numpyy' (raised at {file}:2)"),
        ("1 / 0", "ZeroDivisionError: division by zero (raised at {file}:2)"),
        ("def f(:", "SyntaxError: invalid syntax ({file}:2)"),
    ],
)
def test_an_error_in_a_module_names_its_line(in_tmp, capsys, text, told):
    name = f"own_error_{len(text)}"
    (in_tmp / f"{name}.py").write_text(f"\n{text}\n")
    assert main(["--import", name, "--config", "bootstrap"]) == 2
    assert f"--import {name}: {told.format(file=in_tmp / name)}".replace(":2", ".py:2") in capsys.readouterr().err


def test_what_is_not_there_and_what_hides_behind_another_is_told(in_tmp):
    with pytest.raises(ConfigError, match="there is no such file"):
        import_own("nothing.py")
    with pytest.raises(ConfigError, match="or name its file"):
        import_own("nothing_of_this_name")
    (in_tmp / "json.py").write_text("")
    with pytest.raises(ConfigError, match="another module is called json"):
        import_own("json.py")
    (in_tmp / "sys.py").write_text("")
    with pytest.raises(ConfigError, match=r"called sys as well \(built into Python\)"):
        import_own("sys.py")
