"""Builds what is published, and looks at it: `python -m tests.packages [PYTHON ...]`.

A source distribution is made of what git has here; of that, and of nothing else, a wheel for each
Python (the one that runs this, and those that are given by path). Each is held against the list of
what belongs into it, goes into a fresh environment from which no compiler can be reached, and has
to be native there. Then pyright has to know the type of every public name from the wheel alone, and
`pipx run` plays the demo. Needs the extra `dev`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parent.parent
EXTENSIONS = {"fastpos/_c/_compiled", "fastpos/_c/_inflate", "fastpos/_c/_tls"}
NATIVE = {"compiled": "yes", "inflater": "isa-l", "tls": "direct"}
# Of no use outside a checkout.
LEFT_OUT = re.compile(r"\.(ci|github)/|\.gitignore|\.gitattributes|\.pre-commit-config\.yaml")


class Wrong(Exception):
    """A package is not as it has to be."""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command; what it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Wrong(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def tracked() -> set[str]:
    """The files that git has."""
    return set(run("git", "ls-files", cwd=ROOT).splitlines())


def some(names: set[Any]) -> str:
    """The first of these, and how many there are."""
    shown = ", ".join(map(str, sorted(names)[:10]))
    return f"{len(names)} ({shown})" if names else "nothing"


def compare(what: str, found: Iterable[Any], expected: Iterable[Any]) -> None:
    """Say of a package what is missing, and what should not be there."""
    missing, extra = set(expected) - set(found), set(found) - set(expected)
    if missing or extra:
        raise Wrong(f"{what}: missing {some(missing)}, not wanted {some(extra)}")


def look_at_source(file: Path) -> None:
    """Hold a source distribution against what git has."""
    with tarfile.open(file) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    own = {name for name in names if not name.startswith("fastpos.egg-info/")}
    expected = {name for name in tracked() if not LEFT_OUT.match(name)}
    compare(file.name, own, expected | {"PKG-INFO", "setup.cfg"})


def look_at_wheel(file: Path) -> None:
    """Hold a wheel against the modules, stubs and extensions that belong into it."""
    with zipfile.ZipFile(file) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    extensions = {name for name in names if name.endswith((".so", ".pyd"))}
    compare(file.name, {name.partition(".")[0] for name in extensions}, EXTENSIONS)
    info = "-".join(file.name.split("-")[:2]) + ".dist-info"
    expected = {
        name
        for name in tracked()
        if name.startswith("fastpos/") and PurePosixPath(name).suffix in {".py", ".pyi", ".typed"}
    } | {"fastpos/py.typed"}
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    compare(file.name, names - extensions, expected | {f"{info}/{name}" for name in about})


def install(python: Path, wheel: Path, room: Path) -> None:
    """Install a wheel where no compiler is; see that it is native, and that the demo runs."""
    run(python, "-m", "venv", room)
    # Neither on the path nor by name: whoever wants a compiler fails.
    bare = {"PATH": str(room / "bin"), "CC": "false", "HOME": os.environ.get("HOME", "/")}
    own = room / "bin" / "python"
    run(own, "-m", "pip", "install", "-q", "--only-binary", ":all:", f"{wheel}[demo]", env=bare)
    said = run(room / "bin" / "fastpos", "info", cwd=room, env=bare)
    told = dict(line.split(None, 1) for line in said.splitlines() if line)
    compare(f"fastpos info of {wheel.name}", {(k, told.get(k)) for k in NATIVE}, NATIVE.items())
    if not Path(told["package"]).is_relative_to(room.resolve()):
        raise Wrong(f"{wheel.name}: not the installed package was asked, but {told['package']}")
    run(room / "bin" / "fastpos", "demo", cwd=room, env=bare)


def build(python: Path, source: Path, folder: Path) -> Path:
    """Build, examine and install the wheel of one Python."""
    version = run(python, "-c", "import sys; print('%d%d' % sys.version_info[:2])").strip()
    room = folder / version
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", room, source)
    (wheel,) = room.glob(f"fastpos-*-cp{version}-*.whl")
    look_at_wheel(wheel)
    install(python, wheel, folder / f"venv{version}")
    return wheel


def look_at_types(wheel: Path, room: Path) -> None:
    """See that a type checker knows the type of everything public, from the wheel alone."""
    extras = "redis,rest,serve,metrics,watch"
    run(room / "bin" / "python", "-m", "pip", "install", "-q", f"{wheel}[{extras}]")
    run(
        *(sys.executable, "-m", "pyright", "--verifytypes", "fastpos", "--ignoreexternal"),
        cwd=room,
        env={
            **os.environ,
            "VIRTUAL_ENV": str(room),
            "PATH": f"{room / 'bin'}:{os.environ['PATH']}",
        },
    )


def look_at_configuration() -> None:
    """See that cibuildwheel understands what it is told, and would build for each CPython; building
    with it needs its containers."""
    command = (sys.executable, "-m", "cibuildwheel", "--print-build-identifiers")
    told = run(*command, "--platform", "linux", cwd=ROOT).split()
    versions = [f"cp3{minor}" for minor in range(10, 14)]
    wanted = [f"{v}-manylinux_{machine}" for machine in ("x86_64", "aarch64") for v in versions]
    compare("cibuildwheel's list", told, wanted)


def main(arguments: list[str]) -> int:
    pythons = [Path(sys.executable), *map(Path, arguments)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            look_at_configuration()
            run("git", "clone", "-q", ROOT, folder / "checkout")
            command = (sys.executable, "-m", "build", "--sdist", "-o", folder)
            run(*command, cwd=folder / "checkout")
            (source,) = folder.glob("fastpos-*.tar.gz")
            look_at_source(source)
            print(f"{source.name}: as git has it", flush=True)
            wheels = []
            with ThreadPoolExecutor(2) as pool:
                for wheel in pool.map(lambda python: build(python, source, folder), pythons):
                    print(f"{wheel.name}: complete, native without a compiler", flush=True)
                    wheels.append(wheel)
            run(sys.executable, "-m", "twine", "check", "--strict", source, *wheels)
            version = wheels[0].name.split("-")[2].removeprefix("cp")
            look_at_types(wheels[0], folder / f"venv{version}")
            run(
                *(sys.executable, "-m", "pipx", "run", "--spec", f"{wheels[0]}[demo]"),
                *("fastpos", "demo"),
                env={**os.environ, "PIPX_HOME": str(folder / "pipx")},
            )
        except Wrong as error:
            print(error, file=sys.stderr)
            return 1
    print("twine finds nothing, pyright knows every type, pipx runs it: all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
