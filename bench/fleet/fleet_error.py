"""The error of everything between the driver and its cluster."""

from membound.errors import MemboundError


class FleetError(MemboundError):
    """A fleet cannot be measured as asked: the message says what is wrong and what would help."""
