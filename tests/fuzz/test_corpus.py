"""The fuzzer's corpus, each input once, without the fuzzer (see tests/fuzz)."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.fuzz.__main__ import HARNESSES, HERE


@pytest.mark.parametrize("harness", HARNESSES)
def test_nothing_is_found_in_the_corpus(harness: str) -> None:
    module = importlib.import_module(f"tests.fuzz.{harness}")
    corpus = sorted(Path(HERE, "corpus", harness).iterdir())
    assert corpus
    for path in corpus:
        try:
            module.one(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{harness}/{path.name}") from error


@pytest.mark.parametrize("harness", HARNESSES)
def test_the_corpus_is_small(harness: str) -> None:
    sizes = [path.stat().st_size for path in Path(HERE, "corpus", harness).iterdir()]
    assert len(sizes) <= 100
    assert sum(sizes) <= 200 * 1024
