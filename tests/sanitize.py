"""The C extensions under AddressSanitizer and UndefinedBehaviorSanitizer: tests, mutated frames.

    python tests/sanitize.py [FRAMES]      # default: 100,000; needs gcc

Builds a copy with ``-fsanitize=address,undefined`` in a temporary directory and runs there the
tests of inflating, decoding and TLS, and a loop that gives mutated frames to `_inflate`. The input
ends at a page that must not be touched, so that ISA-L, which is not instrumented, is caught too
when it reads too far; and whatever it makes of a frame, the `isal` wheel must make too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g"
TESTS = [
    "wire/test_inflate.py",
    "_c/test_isal.py",
    "_c/test_compiled.py",
    "wire/test_decode.py",
    "runtime/test_delivery.py",
    "wire/test_frames.py",
    "model/test_fields.py",
    "net/test_records.py",
    "net/test_tls.py",
]


def main() -> None:
    if sys.argv[1:2] == ["--fuzz"]:
        fuzz(int(sys.argv[2]))
        return
    frames = sys.argv[1] if len(sys.argv) > 1 else "100000"
    with tempfile.TemporaryDirectory() as copy:
        build(Path(copy))
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(library(name) for name in ("libasan.so", "libubsan.so")),
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # the interpreter's own, at exit
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # red zones around every object
            "PYTHONPATH": copy,
        }
        check = "from fastpos._c import why_not; assert not why_not, why_not"
        command = [sys.executable, "-c", f"import fastpos; {check}"]
        subprocess.run(command, cwd=copy, env=environment, check=True)
        tests = [f"tests/{name}" for name in TESTS if Path(copy, "tests", name).is_file()]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *tests]
        subprocess.run([*command, "--timeout=1200"], cwd=copy, env=environment, check=True)
        command = [sys.executable, "tests/sanitize.py", "--fuzz", frames]
        subprocess.run(command, cwd=copy, env=environment, check=True)


def build(copy: Path) -> None:
    """Put a checkout's files into `copy`, with the extensions built in place."""
    for name in ("fastpos", "tests"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", "wheel", "."],
        cwd=copy,
        env={**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS, "FASTPOS_PURE": ""},
        check=True,
    )
    (wheel,) = (copy / "wheel").iterdir()
    shutil.unpack_archive(wheel, copy, "zip")
    for built in (copy / "fastpos" / "_c").glob("*.so"):
        built.touch()  # after its sources, which were unpacked as well


def library(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class GuardedBuffer:
    """Memory that ends at a page which must not be touched."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 33 * mmap.PAGESIZE)
        self._size = 32 * mmap.PAGESIZE
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if libc.mprotect(address + self._size, mmap.PAGESIZE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def hold(self, data: bytes) -> memoryview:
        start = self._size - len(data)
        self._memory[start : self._size] = data
        return memoryview(self._memory)[start : self._size]


def fuzz(count: int) -> None:
    # Here, for only the copy has them with sanitizers.
    from hypothesis import given, settings  # noqa: PLC0415
    from hypothesis import strategies as st  # noqa: PLC0415

    from fastpos._c._inflate import Inflater  # noqa: PLC0415
    from tests.support.frames import BINARY, frame  # noqa: PLC0415
    from tests.support.pushes import MEMBERS  # noqa: PLC0415
    from tests.wire.test_inflate import check_agreement, mutated  # noqa: PLC0415

    inflater = Inflater()
    guarded = GuardedBuffer()
    good = frame(BINARY, MEMBERS[0])

    def inflate(data: bytes, max_size: int) -> bytes:
        return inflater.inflate(guarded.hold(data), max_size)

    @settings(max_examples=count, deadline=None, database=None)
    @given(mutated(), st.sampled_from([1 << 20, 700, 100]))
    def run(data: bytes, max_size: int) -> None:
        check_agreement(data, max_size, inflate)
        taken: list[bytes] = []
        buffer = good + frame(BINARY, data)
        end = inflater.split(guarded.hold(buffer), 0, len(buffer), 1 << 20, taken)
        assert end in (len(good), len(buffer))
        assert len(taken) == 1 + (end > len(good))

    run()
    print(f"{count} mutated frames, no finding; native and pure agree on all")


if __name__ == "__main__":
    main()
