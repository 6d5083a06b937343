"""`examples/README.md`: its table, and its commands."""

from __future__ import annotations

import re
import shlex

from tests.support.programs import ROOT, read_until, started

README = (ROOT / "examples" / "README.md").read_text()


def test_the_table_has_every_program() -> None:
    named = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\)", README, re.M)
    assert all(text == target for text, target in named)
    programs = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert sorted(name for name, _ in named) == sorted(programs)


def test_the_commands_play_the_recorded_day_to_a_bot() -> None:
    serve, follow = re.findall(r"```sh\n(.*?)```", README, re.S)
    words = [word if word != "8765" else "0" for word in shlex.split(serve)[1:]]
    exports = dict(re.findall(r"(FASTPOS_\w+)=(\S+)", follow))
    with started(*words, where=ROOT) as server:
        said = read_until(server, "The day of demo begins")
        url = re.search(r"ws://\S+", said)
        assert url is not None
        assert re.sub(r":\d+/", ":8765/", url.group()) == exports["FASTPOS_URL"]
        exports["FASTPOS_URL"] = url.group()
        script = str(ROOT / follow.split()[-1])
        with started(script, **exports) as bots:
            output = read_until(bots, "Exposure: E-BTC-USDT +0")
    assert "Fills: E-BTC-USDT 12 of 12" in output
