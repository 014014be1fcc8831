"""`python -m lossselect`."""

from lossselect.cli import main

main()
