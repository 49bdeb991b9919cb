"""The command ``redline``: reads the words, runs the command, and turns every error into one line and a code.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 interrupted (a training run was checkpointed first).
"""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from redline.cli.commands import Command, WrongUsage
from redline.cli.parse import parse
from redline.version import VERSION

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Nothing is raised; an error is one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the output cannot spell is no reason to fail
        sys.stdout.reconfigure(errors="replace")
    try:
        if arguments == ["--version"]:
            print(f"redline {VERSION}")
            return DONE
        return _run(parse(arguments))
    except SystemExit as stop:  # help was printed
        return stop.code if isinstance(stop.code, int) else DONE
    except BrokenPipeError:  # whoever read our output has gone: `redline recipes | head -1`
        _discard_output()
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, text = _explain(error)
        print(f"redline: {' '.join(text.split())}", file=sys.stderr, flush=True)
        return code


def _run(command: Command) -> int:
    if not command.debug:
        # Libraries warn about themselves; what concerns the run stands in its rules and messages.
        warnings.simplefilter("ignore")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # `redline train my_games:make_env` finds my_games.py here
    # Late: this imports torch, which takes seconds, and help or a misspelt option need not wait for it.
    from redline.cli import actions

    return actions.run(command)


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and text of an error."""
    if isinstance(error, WrongUsage):
        return WRONG, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    # Late, as above; by now they are mostly loaded already.
    from redline.api import Interrupted
    from redline.types import RunError, UserError

    if isinstance(error, Interrupted):
        return INTERRUPTED, str(error)
    if isinstance(error, RunError):
        return FAILED, str(error)
    if isinstance(error, UserError):
        return WRONG, str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return FAILED, f"{error.strerror}{where} (--debug shows where it happened)"
    text = str(error) or "no further words"
    return FAILED, f"unexpected {type(error).__name__}: {text} (--debug shows where it happened)"


def _discard_output() -> None:
    """Keep Python from failing once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
