"""Options of an experiment on a command line, and one sentence for a wrong one."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from unimod_jax.training import RunError


def options_by_name(words: Sequence[str]) -> dict[str, str]:
    """Option -> its words, of a command line; of one given twice the last counts.

    Names have no dashes in front and underscores inside: "--mod.keep-ratio" is
    "mod.plan". Words before the first option are those of "".
    """
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            option, _, word = word.partition("=")
            name = canonical(option)
            found[name] = word
        else:
            found[name] = f"{found.get(name, '')} {word}".strip()
    return dict(sorted(found.items()))


def canonical(option: str) -> str:
    """An option's name as the experiment has it."""
    return option.strip().lstrip("-").replace("-", "_")


def check_option(options: Any, option: str) -> None:
    """Follows a dotted name through the dataclasses of an experiment's options.

    Args:
      options: from `command_line.options_of`.
      option: dotted, with or without dashes.

    Raises:
      RunError: if it is no option, with one of a similar name, or a group of them.
    """
    here: object = options
    path = "--"
    for part in canonical(option).split("."):
        fields = _fields(here)
        if part not in fields:
            close = difflib.get_close_matches(part, fields, n=1)
            hint = f"did you mean {path}{close[0]}?" if close else "see --help."
            raise RunError(f"there is no option --{canonical(option)}; {hint}")
        here = getattr(here, part)
        path += f"{part}."
    if fields := _fields(here):
        raise RunError(
            f"--{canonical(option)} is a group of options; name one of them, such as "
            f"{path}{fields[0]}."
        )


def _fields(value: object) -> list[str]:
    if not dataclasses.is_dataclass(value):
        return []
    return [field.name for field in dataclasses.fields(value)]


def refuse_options(options: Any, arguments: Sequence[str], event: Any) -> None:
    """Says in one sentence what is wrong with some options.

    Args:
      options: from `command_line.options_of`.
      arguments: of the command line.
      event: what tyro hands to its hook, one of `tyro._errors.ParseErrorEvent`.

    Raises:
      RunError: always.
    """
    from tyro import _errors as tyro_errors

    if isinstance(event, tyro_errors.UnrecognizedArgs):
        _refuse_unknown(options, arguments, event.tokens[0])
    if isinstance(event, tyro_errors.InstantiationFailure) and event.argument is None:
        raise RunError(event.message)  # A dataclass refused: its sentence.
    argument = getattr(event, "argument", None)
    if argument is None:
        raise RunError(
            f"the options {' '.join(arguments)!r} are not valid; see --help."
        )
    option = argument.lowered.name_or_flags[-1]
    words = options_by_name(arguments).get(canonical(option), "")
    told = f"is {words!r}" if words else "has no value"
    if isinstance(event, tyro_errors.InvalidChoice):
        raise RunError(f"{option} {told}; give one of {', '.join(event.choices)}.")
    form = argument.lowered.metavar
    raise RunError(f"{option} {told}; give a value of the form {form}.")


def _refuse_unknown(options: Any, arguments: Sequence[str], token: str) -> None:
    """Refuses an option that there is not, or a word that follows none."""
    if token.startswith("--"):
        check_option(options, token.partition("=")[0])
    before = arguments[: arguments.index(token)] if token in arguments else []
    options = [word for word in before if word.startswith("--")]
    where = f"is no value of {options[-1]}" if options else "follows no option"
    raise RunError(f"{token!r} {where}; take it away, or see --help.")
