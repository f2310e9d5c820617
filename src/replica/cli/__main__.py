"""`python -m replica.cli`."""

from replica.cli import main

main()
