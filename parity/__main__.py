"""``python -m parity``"""

from parity.cli.main import main

main()
