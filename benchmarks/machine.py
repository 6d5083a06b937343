"""Where a measurement was made: without it, a number says nothing."""

import datetime
import os
import platform
import ssl
from importlib import metadata
from pathlib import Path

__all__ = ["describe"]

_PACKAGES = (
    "fastpos",
    "websocket-client",
    "isal",
    "orjson",
    "msgspec",
    "websockets",
    "picows",
    "aiofastnet",
    "uvloop",
)


def describe() -> dict[str, str]:
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "TLS": ssl.OPENSSL_VERSION,
        "Packages": ", ".join(_versions()),
        "Date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> list[str]:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return versions
