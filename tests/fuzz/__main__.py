"""Fuzzes what takes bytes from the network, guided by coverage (atheris, which is libFuzzer).

    python -m tests.fuzz [--seconds 30] [HARNESS...]    # pip install 'fastpos[test,fuzz]'

Each harness runs for so long, from the kept corpus. It ends with an exit status of 1 when one has
found something; the input is then in `.fuzz/` and

    python -m tests.fuzz HARNESS --input FILE

runs it alone. What is written out is how many inputs were run, and how much of the library they
reached: edges of its bytecode, and libFuzzer's features, which tell how often too. ``--keep`` puts
the inputs that are needed to reach as many edges into the corpus, for `test_corpus.py` too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HARNESSES = ("frames", "decoder", "session", "opening")
HERE = Path(__file__).parent
FINDINGS = HERE.parent.parent / ".fuzz"

LONGEST = 4096  # bytes of an input
MEMORY = 256  # MiB for the whole process, which begins with 60
SLOWEST = 10  # seconds for one input


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    names = ", ".join(HARNESSES)
    parser.add_argument("harness", nargs="*", help=f"some of {names}; default: all")
    parser.add_argument("--seconds", type=int, default=30, help="for each harness")
    parser.add_argument("--keep", action="store_true", help="put what was found into the corpus")
    parser.add_argument("--input", type=Path, help="run only this file")
    arguments = parser.parse_args()
    harnesses = arguments.harness or HARNESSES
    if unknown := set(harnesses) - set(HARNESSES):
        parser.error(f"no such harness: {', '.join(unknown)}; there are {names}")
    if arguments.input is not None:
        if len(harnesses) != 1:
            parser.error("--input goes with one harness")
        importlib.import_module(f"tests.fuzz.{harnesses[0]}").one(arguments.input.read_bytes())
        return
    failed = [name for name in harnesses if not run(name, arguments.seconds, arguments.keep)]
    if failed:
        sys.exit(f"findings in: {', '.join(failed)}")


def run(harness: str, seconds: int, keep: bool) -> bool:
    """Run a harness for some time; True if it found nothing."""
    corpus = HERE / "corpus" / harness
    corpus.mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        found, kept = Path(directory, "found"), Path(directory, "kept")
        found.mkdir()
        kept.mkdir()
        # The second: by edges alone, for how often each was taken would keep three times as many
        passes: list[tuple[str | Path, ...]] = [
            (f"-max_total_time={seconds}", found, corpus),
            ("-merge=1", "-set_cover_merge=1", "-use_counters=0", kept, corpus, found),
        ]
        for number, words in enumerate(passes if keep else passes[:1]):
            said, good = fuzz(harness, *words)
            if number == 0:
                print(summary(harness, said, seconds), flush=True)
            if not good:
                progress = ("#", "INFO", "WARNING")
                lines = [line for line in said.splitlines() if not line.startswith(progress)]
                print("\n".join(lines)[-8000:], file=sys.stderr, flush=True)
                return False
        if keep:
            shutil.rmtree(corpus)
            corpus.mkdir()
            for path in kept.iterdir():
                data = path.read_bytes()
                (corpus / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)
    return True


def fuzz(harness: str, *arguments: str | Path) -> tuple[str, bool]:
    """What libFuzzer says, in a process of its own, and whether it is content."""
    command = [
        *(sys.executable, "-m", "tests.fuzz.child", harness, f"-max_len={LONGEST}"),
        *(f"-rss_limit_mb={MEMORY}", f"-timeout={SLOWEST}", "-print_final_stats=1"),
        *(f"-artifact_prefix={FINDINGS}/{harness}-", *map(str, arguments)),
    ]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace"), done.returncode == 0


def summary(harness: str, said: str, seconds: int) -> str:
    executed = re.findall(r"stat::number_of_executed_units: +(\d+)", said)
    reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
    edges, features, inputs = reached[-1] if reached else ("no", "no", "no")
    return (
        f"{harness}: {executed[-1] if executed else 'no'} executions in {seconds} s, "
        f"{edges} edges, {features} features, {inputs} inputs"
    )


if __name__ == "__main__":
    main()
