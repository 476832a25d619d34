"""The port imports neither transformers nor another room, directly or indirectly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib, pkgutil, sys
import port
for module in pkgutil.walk_packages(port.__path__, "port."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if "." not in name))
print(*sorted(name for name in sys.modules if name.startswith("port.")))
"""


def test_no_module_of_the_port_imports_transformers_or_another_room() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    loaded, own = (set(line.split()) for line in done.stdout.splitlines())
    assert "torch" in loaded
    files = {f"port.{path.stem}" for path in (Path(__file__).parents[2] / "port").glob("*.py")} - {"port.__init__"}
    assert files <= own, "every module was imported"
    assert not loaded & {"transformers", "torchvision", "reference", "parity", "reports"}
