"""`python -m lossselect`."""

from lossselect.cli.main import main

main()
