"""Prints constraints for pip: the lowest version that setup.cfg allows of everything that it names with one."""

import re
from configparser import ConfigParser
from pathlib import Path

setup = ConfigParser()
setup.read(Path(__file__).parents[1] / "setup.cfg")
wanted = setup["options"]["install_requires"].split() + setup["options.extras_require"]["dev"].split()
for line in wanted:
    if found := re.match(r"([\w-]+)>=([\w.]+)", line):
        print(f"{found[1]}=={found[2]}")
