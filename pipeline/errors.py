"""What can go wrong, in as few types as callers need to distinguish."""


class EgoctlError(Exception):
    """A user's mistake or bad data: one clear line with what to do next, and exit code 2."""


class ManifestError(EgoctlError):
    """A manifest or an annotation file that cannot be used as it is."""


class StoreError(EgoctlError):
    """A store that is missing, damaged or not what the command needs."""


class StoreMismatchError(StoreError):
    """A store that holds another recipe than the one asked for."""


class ClipError(EgoctlError):
    """Why one clip has no data: a short code for tables, a sentence for people.

    It never ends a run: extraction turns it into the clip's outcome and goes on.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class VideoError(ClipError):
    """A video, or a span of it, that gives no frames."""


class ImuError(ClipError):
    """An IMU recording, or a span of it, that cannot be trusted."""
