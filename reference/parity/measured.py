"""Runs a program and writes its peak of memory, in KiB, into a file.

    python measured.py FILE PROGRAM ARGUMENT...

It is a process of its own because Linux counts what the one who starts a program holds towards the program's peak: this
one holds next to nothing, and whoever calls it may hold gigabytes.
"""

import os
import subprocess
import sys


def main(file, *command):
    _, status, usage = os.wait4(subprocess.Popen(command).pid, 0)
    with open(file, "w") as out:
        # macOS counts in bytes.
        out.write(str(usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)))
    sys.exit(os.waitstatus_to_exitcode(status))


main(*sys.argv[1:])
