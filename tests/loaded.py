"""What a command has loaded by its end, in an interpreter of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence

from conftest import REPOSITORY

_SCRIPT = """
import json, sys, densenet_suite.cli as cli
try: cli.main(sys.argv[1:])
except SystemExit as ended: code = ended.code or 0
print(json.dumps([code, sorted(sys.modules)]))
"""


def loaded_by(arguments: Sequence[str], names: Sequence[str]) -> tuple[int, list[str]]:
    """Return a command's exit code, and which of these modules it has loaded."""
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, [name for name in names if name in modules]
