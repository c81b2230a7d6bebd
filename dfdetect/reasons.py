"""Why a video has no score: all that a `status` can say beside `ok`.

Some are followed by details in brackets or after a colon. The README explains each of them.
"""

MISSING = "no such video"
NO_FILE = "no such file"
NO_ACCESS = "not a readable file"
EMPTY = "the file is empty"
NO_VIDEO = "not a readable video"
NO_STREAM = "the file has no video stream"
NO_DECODER = "this FFmpeg has no decoder for its video stream"
NO_FRAME = "no frame can be decoded"
TOO_SLOW = "takes too long to decode"
TOO_LARGE = "needs too much memory to decode"
CRASHED = "its decoder crashed"
NO_FACE = "no face found"
FAILED = "failed"
OUT_OF_TIME = "no time was left for it"
NOT_SCORED = "interrupted before it was scored"

REASONS = (
    *(MISSING, NO_FILE, NO_ACCESS, EMPTY, NO_VIDEO, NO_STREAM, NO_DECODER, NO_FRAME, TOO_SLOW),
    *(TOO_LARGE, CRASHED, NO_FACE, FAILED, OUT_OF_TIME, NOT_SCORED),
)
