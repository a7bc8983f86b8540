"""The actor that says that a fleet is at work on a cluster, and whose it is. A small module, for a process that only waits."""


class Holder:
    """Holds the name of the one fleet of a cluster while its driver lives."""

    def __init__(self, whose: str) -> None:
        self._whose = whose

    def whose(self) -> str:
        """User, machine and process of the driver."""
        return self._whose
