"""``python -m parity``: the same as the command ``parity``, in any folder.

``python -m`` puts the current folder first on the import path, where a ``port.py`` or ``reports/`` of the user's own
would be found in the place of this project's.
"""

import sys
from pathlib import Path

if sys.path and Path(sys.path[0]).resolve() == Path.cwd() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from parity.cli.main import main

main()
