"""From the words typed to a command, or one line that says which word is wrong.

tyro reads and documents the options. Its error boxes are replaced: where it refuses, the words are looked at again
here, with nothing but the commands' own fields, to say in one line what is wrong and what is near.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

import tyro

from redline.cli.commands import COMMANDS, READERS, AnyCommand, Bench, Command, WrongUsage

DESCRIPTION = (
    "Trains reinforcement learning agents at the limit of this machine. Start: redline train CartPole-v1"
)


def parse(arguments: Sequence[str]) -> Command:
    """The command that the words spell.

    Errors:
        WrongUsage: the words spell none; the text names the word and the nearest right one.
        SystemExit: with code 0, after help was printed.
    """
    arguments = list(arguments)
    _check_command(arguments)
    if arguments[0] == "bench" and arguments[1:] and not arguments[1].startswith("-"):
        return _bench(arguments[1:])
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            command = tyro.cli(
                AnyCommand,
                prog="redline",
                args=arguments,
                description=DESCRIPTION,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise WrongUsage(_diagnose(arguments, errors.getvalue())) from None
    return typing.cast(Command, command)


def _bench(words: Sequence[str]) -> Bench:
    """A script's own options are its own to read; only ``--debug`` is ours, before or after."""
    return Bench(words=tuple(word for word in words if word != "--debug"), debug="--debug" in words)


def nearest(word: str, choices: Sequence[str]) -> str:
    """``did you mean 'train'?``, or all the choices where none is near."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(choices)}"


def _check_command(arguments: Sequence[str]) -> None:
    if not arguments:
        raise WrongUsage(f"no command given; valid: {', '.join(COMMANDS)} (redline --help)")
    if arguments[0] not in COMMANDS and arguments[0] not in ("-h", "--help"):
        what = "option" if arguments[0].startswith("-") else "command"
        raise WrongUsage(f"unknown {what} '{arguments[0]}': {nearest(arguments[0], list(COMMANDS))}")


def _diagnose(arguments: Sequence[str], refusal: str) -> str:
    """What is wrong with words that tyro refused."""
    name, words = arguments[0], list(arguments[1:])
    switches, valued, positionals = _options(COMMANDS[name])
    given: list[str] = []
    while words:
        word = words.pop(0)
        if not re.match(r"--?[A-Za-z]", word):
            given.append(word)
            continue
        option, equals, text = word.partition("=")
        option = option.replace("_", "-")
        if option in switches and not equals:
            continue
        if option in switches:
            return f"option {option} of 'redline {name}' takes no value"
        if option not in valued:
            known = [*valued, *switches]
            return f"unknown option '{option}' of 'redline {name}': {nearest(option, known)}"
        if not equals and (not words or words[0].startswith("--")):
            return f"option {option} of 'redline {name}' needs a value: {option} {valued[option]}"
        text = text if equals else words.pop(0)
        try:
            READERS.get(option, str)(text)
        except ValueError as error:
            return f"{option}: {error}"
    required = [field for field in positionals if field.default is MISSING]
    if len(given) < len(required):
        return f"'redline {name}' needs {required[0].name.upper()}: see redline {name} --help"
    many = any("tuple" in str(field.type) for field in positionals)
    if len(given) > len(positionals) and not many:
        return f"'redline {name}' does not take '{given[len(positionals)]}': see redline {name} --help"
    # An unforeseen refusal: tyro's own words, without its box.
    return " ".join(re.sub(r"[^\x20-\x7e]+", " ", refusal).split()) or "this command line cannot be read"


def _options(cls: Any) -> tuple[list[str], dict[str, str], list[Any]]:
    """Options without a value; those with one, and its name in help; positional fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    switches: list[str] = ["--help", "-h"]
    valued: dict[str, str] = {}
    positionals: list[Any] = []
    for item in fields(cls):
        marks = getattr(hints[item.name], "__metadata__", ())
        details = next((mark for mark in marks if hasattr(mark, "metavar") and hasattr(mark, "name")), None)
        option = "--" + (getattr(details, "name", None) or item.name).replace("_", "-")
        if tyro.conf.Positional in marks:
            positionals.append(item)
        elif item.default is False:
            switches.append(option)
        else:
            valued[option] = getattr(details, "metavar", None) or item.name.upper()
    return switches, valued, positionals
