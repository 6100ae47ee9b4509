"""Golden files for fine-tuning: each script beside this one makes the file of its name."""

from arithmetic import make_arithmetic
from loop import make_loop

make_arithmetic()
make_loop()
