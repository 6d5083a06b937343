"""What runs the pages sees a page that is wrong."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import blocks_of, faults
from tests.docs.pages import PageFailed, run_page
from tests.docs.shown import pattern_of

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("bash"), reason="needs a bash"
)


def run_text(text: str, folder: Path) -> None:
    page = folder / "page.md"
    page.write_text(text)
    (folder / "run").mkdir()
    run_page(blocks_of(page), folder / "run")


def block(language: str, text: str, *comments: str) -> str:
    above = "".join(f"<!-- {comment} -->\n" for comment in comments)
    return f"{above}```{language}\n{text}\n```\n\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (block("python", "raise SystemExit(3)"), "it ended with 3"),
        (block("python", "print(1)") + block("text", "2", "output"), "printed something else"),
        (block("python", "print(1)\nprint(2)") + block("text", "1", "output"), "something else"),
        (block("sh", "false\ntrue"), "it ended with 1"),
        (block("console", "$ echo a\nb"), "printed something else"),
        (block("console", "$ echo a", "fails"), "it ended with 0"),
        (block("pycon", ">>> 1\n1", "to: nothing.py"), "nothing with 'nothing.py'"),
        (block("sh", "true", "background"), "it has ended"),
    ],
)
def test_what_is_wrong_on_a_page_is_seen(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(PageFailed, match=what):
        run_text(text, tmp_path)


def test_a_page_that_does_what_it_says(tmp_path: Path) -> None:
    run_text(
        block("python", "answer = 6 * 7")
        + block("python", "print(answer)", "continues")
        + block("text", "42", "output")
        + block("python", "print('from a file')", "file: there/own.py")
        + block("sh", "export WORD=exported\ncd there")
        + block("console", "$ python own.py\nfrom a file\n$ echo $WORD\nexported")
        + block("console", "$ python -c 'import no_such'\n…", "fails")
        + block("console", "$ python -i -c 'a = 40; print(a)'\n40", "background")
        + block("pycon", ">>> a + 2\n42\n>>> if a:\n...     print('yes')\n...\nyes", "to: a = 40")
        + block("sh", "exit 1", "not run: it fails")
        + block("sh", "exit 1", "long: it fails")
        + block("console", "$ echo a; sleep 60\na\n^C"),
        tmp_path,
    )


def test_a_ctrl_c_that_python_forgets_is_sent_again(tmp_path: Path) -> None:
    program = """
import time

class Last:
    def __del__(self):
        print("waiting", flush=True)
        time.sleep(60)

print("there", flush=True)
Last()
time.sleep(60)
"""
    run_text(
        block("python", program, "file: forgets.py")
        + block("console", "$ python forgets.py\nthere\nwaiting", "background"),
        tmp_path,
    )


def test_what_differs_in_each_run_may_differ_and_no_more() -> None:
    shown = "12:00:01.500  Ready  http://127.0.0.1:8765/ in 0.25 s, … at 0x7f01\n"
    came = "23:59:59.999  Ready  http://127.0.0.1:40001/ in 1.5 s, abc at 0xbeef\n"
    assert pattern_of(shown).match(came)
    assert not pattern_of(shown).match(came.replace("Ready", "ready"))
    assert not pattern_of("volume 3\n").match("volume 4\n")
    assert pattern_of("a\n…\nb\n").match("a\nx\ny\nb\n")
    assert not pattern_of("a\nb\n").match("a\nx\nb\n")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (block("python", "x = = 1"), "is no Python"),
        (block("bash", "true"), "the language is one of"),
        (block("console", "echo a"), "begins with"),
        (block("sh", "true", "not run:"), "needs a word"),
        (block("sh", "true", "tested by: tests/no_such.py"), "is not there"),
    ],
)
def test_a_block_that_could_not_be_run_is_refused(text: str, what: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert what in "".join(fault for each in blocks_of(page) for fault in faults(each))
