"""The command line `ffnsearch`, as `python -m ffnsearch_service.cli`."""

from ffnsearch_service.cli import main

main()
