"""See tests/support."""

from tests.support.certificates import *  # noqa: F403
