"""``python -m libs.suite`` is the command ``wattring``."""

from libs.suite.cli import main

main()
