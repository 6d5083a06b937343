"""See tests/support."""

from tests.support.frames import text_frame  # noqa: F401
from tests.support.pushes import FRAMES, load, order, push_frame  # noqa: F401
from tests.support.recording import *  # noqa: F403
from tests.support.servers import answer_until_close, serve_subscription  # noqa: F401
