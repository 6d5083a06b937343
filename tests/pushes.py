"""See tests/support."""

from tests.support.pushes import *  # noqa: F403
from tests.support.pushes import OF_A_BOOK, is_of_a_book  # noqa: F401
