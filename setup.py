"""The configurations of a checkout become a part of an installed package, where `segtrain config` finds them."""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigurations(build_py):
    """Copies configs/ to segtrain/configs/ of what is built; a checkout that is installed with -e keeps its own."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "segtrain" / "configs"
            rmtree(target, ignore_errors=True)  # left by an earlier build
            copytree("configs", target)


setup(cmdclass={"build_py": WithConfigurations})
