"""What stops a measurement."""


class LabError(RuntimeError):
    """Something that it needs is missing, did not start, or is not as documented."""
