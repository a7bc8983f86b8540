"""`python -m membound` is the `membound` command."""

from membound.bench.cli import main

if __name__ == "__main__":
    main()
