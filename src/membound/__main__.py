"""The `membound` command, also as `python -m membound`: Ctrl-C is one line from the first moment to the last."""

import signal
import sys


def main() -> None:
    """Run the command and exit."""
    try:
        from membound.bench.cli import main as command

        command()
    except KeyboardInterrupt:
        print("membound: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said, and what is left to do takes a moment


if __name__ == "__main__":
    main()
