"""Services load what few of them ever use when it is used: a process that was killed is back the sooner."""

import subprocess
import sys

SERVICES = ("alarm", "carbon", "control", "export", "gateway", "ingest")
LATE = ("asyncssh", "asyncua", "hat", "openpyxl", "typst")
"""SFTP, OPC UA, IEC 60870-5 and 61850, Excel and PDF: each a tenth of a second or more."""


def test_no_service_loads_what_few_use() -> None:
    code = f"""
import sys
for name in {SERVICES!r}:
    __import__(f"services.{{name}}.main")
    print(name, *(late for late in {LATE!r} if late in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == list(SERVICES)
