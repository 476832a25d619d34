"""``python -m parity`` does the same as the command ``parity``, in any folder.

``python -m`` puts the current folder first on the import path. A ``port.py`` or ``reports/`` of the user would be
imported instead of this project's, so that folder is removed from the path.
"""

import sys
from pathlib import Path

if sys.path and Path(sys.path[0]).resolve() == Path.cwd() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from parity.cli.main import main

main()
