"""`python -m rad3d` is `rad3d`."""

from rad3d.cli import main

main()
