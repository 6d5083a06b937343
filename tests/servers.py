"""See tests/support."""

from tests.support.frames import *  # noqa: F403
from tests.support.network import *  # noqa: F403
from tests.support.openssl import *  # noqa: F403
from tests.support.proxies import *  # noqa: F403
from tests.support.rig import *  # noqa: F403
from tests.support.servers import *  # noqa: F403
from tests.support.upgrade import *  # noqa: F403
