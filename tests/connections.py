"""See tests/support."""

from tests.support.connections import *  # noqa: F403
