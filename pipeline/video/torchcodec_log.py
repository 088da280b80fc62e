"""What torchcodec's FFmpeg reports of damage: it patches pictures, and only its log shows it."""

import atexit
import ctypes
import importlib
import sys
import threading
from functools import cache

AVUTIL_OF_FFMPEG = 52
"""FFmpeg 4 comes with libavutil 56, FFmpeg 8 with libavutil 60."""
LOG_ERROR = 16
"""FFmpeg's level of errors; more serious ones are lower."""


class FfmpegLog:
    """Hears what torchcodec's FFmpeg logs as errors, each thread what it decodes itself.

    torchcodec gives no other sign that a picture was patched: no flag, no exception.
    """

    def __init__(self) -> None:
        """Find the FFmpeg to listen to.

        Raises:
            OSError: if torchcodec's FFmpeg is not there under its usual name.
        """
        major = importlib.import_module("torchcodec").ffmpeg_major_version + AVUTIL_OF_FFMPEG
        name = f"libavutil.{major}.dylib" if sys.platform == "darwin" else f"libavutil.so.{major}"
        self._library = ctypes.CDLL(name)
        self._heard = threading.local()
        self._lock = threading.Lock()
        self._num_listeners = 0
        pointer = ctypes.c_void_p
        kind = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int, ctypes.c_char_p, pointer)
        self._callback = kind(self._hear)  # kept: FFmpeg only borrows it
        # FFmpeg must not call into an interpreter that has ended.
        atexit.register(self._ignore)

    def start(self) -> None:
        """Listen until as many stops as starts: others may log to the same FFmpeg meanwhile."""
        with self._lock:
            self._num_listeners += 1
            self._library.av_log_set_callback(self._callback)

    def stop(self) -> None:
        with self._lock:
            self._num_listeners -= 1
            if self._num_listeners == 0:
                self._ignore()

    def _ignore(self) -> None:
        self._library.av_log_set_callback(self._library.av_log_default_callback)

    def take(self) -> str | None:
        """The first complaint in this thread since the last call; None: all was well."""
        heard: str | None = getattr(self._heard, "words", None)
        self._heard.words = None
        return heard

    def _hear(self, _source: int, level: int, words: bytes, _values: int) -> None:
        # Higher bits of the level are colours.
        if level & 0xFF <= LOG_ERROR and getattr(self._heard, "words", None) is None:
            # The values that belong into the sentence stay in C.
            self._heard.words = words.decode(errors="replace").partition("%")[0].strip(" (:\n")


@cache
def ffmpeg_log() -> FfmpegLog:
    """The one listener of this process: FFmpeg takes only one.

    Raises:
        OSError: if torchcodec's FFmpeg is not there under its usual name.
    """
    return FfmpegLog()
