"""The errors of this package."""


class ContainerError(Exception):
    """A container could not be made or used; the sentence says why."""


class NoContainerError(ContainerError):
    """This host cannot have containers at all."""
