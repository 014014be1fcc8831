"""Entry point of `python -m lossselect`."""

from lossselect.cli.main import main

main()
