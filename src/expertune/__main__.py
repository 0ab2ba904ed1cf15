"""`python -m expertune`."""

from .cli import main

main()
