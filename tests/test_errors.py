"""Every error's text says what happened, to what, and what to do next."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastpos
from fastpos import errors
from fastpos.errors import FastposError
from fastpos.journal import read

PACKAGE = Path(fastpos.__file__).parent
CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FastposError)
]
# A sentence or more: begins with a capital or a name of code, has no line feed, ends.
ADVICE = re.compile(r"[A-Z`.][^\n]{15,250}\.", re.DOTALL)


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package, and where it stands."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", node


def name_of(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "id", None) or getattr(function, "attr", "")


def words(node: ast.expr) -> str:
    """The text that stands in the code, a brace for each value in it."""
    return "".join(
        part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "{}"
        for part in (node.values if isinstance(node, ast.JoinedStr) else [node])
    )


MADE = [
    (where, call)
    for where, call in calls()
    if name_of(call) in {kind.__name__ for kind in CLASSES} and not where.startswith("errors.py")
]


def test_every_public_error_is_exported_and_raised_somewhere() -> None:
    assert {kind.__name__ for kind in CLASSES} == {n for n in errors.__all__ if n[0].isupper()}
    assert {name_of(call) for _, call in MADE} == {kind.__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_an_advice_of_its_own(kind: type[FastposError]) -> None:
    assert ADVICE.fullmatch(kind.advice)
    assert [other for other in CLASSES if other.advice == kind.advice] == [kind]


@pytest.mark.parametrize(("where", "call"), MADE, ids=[where for where, _ in MADE])
def test_every_message_is_one_line_without_an_end(where: str, call: ast.Call) -> None:
    """So that the advice can follow it."""
    text = words(call.args[0])
    assert text
    assert "\n" not in text
    assert not text.endswith((".", "!", ":", " "))
    assert "{}" in text or len(text.split()) >= 3, "it does not say what it is about"


def test_every_advice_that_is_given_on_the_spot_is_a_sentence() -> None:
    constants = {
        target.id: words(node.value)
        for file in PACKAGE.rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    given = [call.args[0] for _, call in calls() if name_of(call) == "advising"]
    texts = [constants[a.id] if isinstance(a, ast.Name) else words(a) for a in given]
    own = [text for text in texts if text != "{}"]  # it is handed on from another error
    assert len(own) >= 15
    assert [text for text in own if not ADVICE.fullmatch(text)] == []


def test_the_text_is_message_and_advice() -> None:
    error = fastpos.AuthenticationError("wss://host: the credential is refused: HTTP 401")
    assert error.message == "wss://host: the credential is refused: HTTP 401"
    assert str(error) == f"{error.message}. {fastpos.AuthenticationError.advice}"
    assert str(error.advising("Ask.")) == f"{error.message}. Ask."
    assert fastpos.AuthenticationError.advice != "Ask."
    again = pickle.loads(pickle.dumps(error))
    assert (again.args, str(again)) == (error.args, str(error))
    assert str(FastposError()).startswith("FastposError. ")


def test_a_real_one_teaches(tmp_path: Path) -> None:
    with pytest.raises(fastpos.DecodeError, match="not a push") as decoding:
        fastpos.decode(b"no push")
    assert "passed over" in str(decoding.value)
    with pytest.raises(errors.JournalError) as reading:
        list(read(tmp_path / "nowhere"))
    assert str(reading.value) == (
        f"there is no journal {tmp_path}/nowhere. "
        "Give the folder that journal= or `fastpos record` wrote in, or a file of it."
    )
