"""The errors that users meet; each says what was wrong, with the value, and what would be right.

Knows nothing of where they are raised.

    SelfsteerError
    |- BadInput             a value from a user or a file that cannot be used
    |  '- WindowFull        a context that leaves no room for a response
    |- DictionaryMismatch   a dictionary that does not fit the model
    |- SteeringError        steering that could not be applied as planned: always fatal to the rollout
    |- OutOfMemory          a request that does not fit the memory, whatever else makes room
    |- Unsupported          an engine that lacks a capability; names it and a way out
    '- Unreachable          a server that an engine works through is down, or failed at a request
"""


class SelfsteerError(Exception):
    """Root of every error that this project raises on purpose."""


class BadInput(SelfsteerError):
    """A value from a user or a file that cannot be used."""


class DictionaryMismatch(SelfsteerError):
    """A feature dictionary that does not fit the model (width, layer, hook point)."""


class SteeringError(SelfsteerError):
    """Steering that could not be applied exactly as planned. Never caught to go on unsteered."""


class OutOfMemory(SelfsteerError):
    """A request that does not fit the machine's memory, whatever else makes room."""


class Unsupported(SelfsteerError):
    """An engine or dictionary lacks a capability; the message names it and a way out."""


class Unreachable(SelfsteerError):
    """A server that an engine works through is down, or failed at a request; asking again may help."""


class WindowFull(BadInput):
    """A context leaves no room in the model's window for a response."""


def first_line(error: BaseException) -> str:
    """What somebody else's error says, for a message of one's own: its first line, or its kind if it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
