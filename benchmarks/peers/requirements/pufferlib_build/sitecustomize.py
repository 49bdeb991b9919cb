"""On the path only while PufferLib 3.0.0 is built, whose setup.py needs two things mended to build without a GPU.

With NO_OCEAN=1 (without it, it downloads raylib) it reads ``c_extension_paths``, which only the other branch sets;
and it builds for CUDA wherever an ``nvcc`` is found, even without a CUDA toolkit.
"""

import builtins
import shutil

builtins.c_extension_paths = []  # type: ignore[attr-defined]
_which = shutil.which
shutil.which = lambda cmd, *more, **named: None if cmd == "nvcc" else _which(cmd, *more, **named)  # type: ignore[assignment]
