"""Nothing in the package runs what a file or a configuration says: read from its syntax trees."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("segtrain/**/*.py"), *ROOT.glob("tools/*.py")])

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
NAMES = {
    *("eval", "exec", "__import__", "os.system", "os.popen"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("load_state_dict_from_url", "torch.utils.model_zoo.load_url"),
    *("shutil.unpack_archive", "extractall", "extract"),
}
OPTIONS = {"shell", "allow_pickle"}  # that must not be switched on
EXCEPTIONS = {("segtrain/checkpoint.py", "torch.load")}  # with weights_only=True, see below


def dotted(node):
    """`a.b.c` of an expression like it, else the last name."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree):
    """What is named in a tree that could run a stranger's code or write outside of a directory."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (
                f"{module}.{alias.name}"
                for alias in node.names
                if module.split(".")[0] in MODULES or {f"{module}.{alias.name}", alias.name} & NAMES
            )
        elif isinstance(node, (ast.Attribute, ast.Name)):
            name = dotted(node)
            if name in NAMES or (isinstance(node, ast.Attribute) and node.attr in NAMES - {"eval", "exec"}):
                yield name
        elif isinstance(node, ast.keyword) and node.arg in OPTIONS and ast.unparse(node.value) != "False":
            yield f"{node.arg}="


def test_what_could_run_a_strangers_code_is_found():
    found = {
        "import pickle": {"pickle"},
        "from pickle import loads": {"pickle.loads"},
        "from torch import load": {"torch.load"},
        "torch.load(f)": {"torch.load"},
        "read = torch.load": {"torch.load"},
        "yaml.load(f, yaml.Loader)": {"yaml.load", "yaml.Loader"},
        "eval('1')": {"eval"},
        "subprocess.run('ls', shell=True)": {"shell="},
        "np.load(f, allow_pickle=True)": {"allow_pickle="},
        "tarfile.open(f).extractall()": {"extractall"},
        "model.eval(); re.compile('a'); json.load(f); np.load(f, allow_pickle=False)": set(),
    }
    for text, expected in found.items():
        assert set(dangers(ast.parse(text))) == expected, text


def test_no_module_can_run_a_strangers_code():
    found = {(str(p.relative_to(ROOT)), danger) for p in SOURCES for danger in dangers(ast.parse(p.read_text()))}
    assert found == EXCEPTIONS


def test_the_one_reader_of_foreign_files_says_that_it_reads_weights_only():
    """torch's default can be switched off by an environment variable, its argument cannot."""
    tree = ast.parse((ROOT / "segtrain/checkpoint.py").read_text())
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func) == "torch.load")
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    assert isinstance(options["weights_only"], ast.Constant)
    assert options["weights_only"].value is True
