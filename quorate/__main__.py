"""`python -m quorate`, as torchrun starts it."""

from quorate.cli import main

main()
