"""The `membound` command, also as `python -m membound`: Ctrl-C is one line from the first moment to the last."""

import signal
import sys


def main() -> None:
    """Run the command and exit."""
    try:
        from membound.bench.cli import main as command

        command()
    except (KeyboardInterrupt, RuntimeError) as error:
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise  # Python 3.11 makes one of a Ctrl-C that hits the making of a class, as an import makes many
        print("membound: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said, and what is left to do takes a moment


if __name__ == "__main__":
    main()
