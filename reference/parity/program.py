"""The program `headstock`, as the comparison calls it."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MEASURED = Path(__file__).with_name("measured.py")


@dataclass
class Done:
    """What a command printed, as figures; how long it took, and the most memory it held."""

    figures: dict
    seconds: float
    peak_kib: int


class Program:
    """Runs commands in the current folder."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments):
        started = time.perf_counter()
        command = [sys.executable, "-I", "-S", MEASURED, "peak.txt", self.path, *arguments, "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - started
        return Done(json.loads(done.stdout.splitlines()[-1]), seconds, int(Path("peak.txt").read_text()))

    def accepts(self, *arguments):
        """Whether a command ends well; what it prints is dropped."""
        return subprocess.run([self.path, *arguments], capture_output=True).returncode == 0
