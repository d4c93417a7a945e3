"""What commands share: finding an experiment, overriding it, failing in a sentence."""

import argparse
import contextlib
import dataclasses
import errno
import functools
import importlib
import importlib.util
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, get_args
from typing import override as override_method

from experiments.options import refuse_options
from unimod_jax.mod import LayerPlan, TaskPlan, plan_from
from unimod_jax.mod.plan_file import NONE
from unimod_jax.training import Experiment, RunError, reduced_twin

_FOLDER = Path(__file__).parent


def experiment_names() -> list[str]:
    """Names of the experiments that come with the project, such as "toy/demo"."""
    return [
        f"{file.parent.name}/{file.stem}"
        for file in sorted(_FOLDER.glob("*/*.py"))
        if "\ndef experiment()" in file.read_text(encoding="utf-8")
    ]


def load_experiment(name_or_path: str) -> Experiment:
    """The experiment of a name such as "toy/demo", or of a Python file of one's own.

    Raises:
      RunError: if there is none, or its file has no function `experiment()`.
    """
    path = Path(name_or_path)
    if name_or_path in experiment_names():
        dotted = name_or_path.replace("/", ".")
        module = importlib.import_module(f"experiments.{dotted}")
    elif path.suffix == ".py" and path.is_file():
        module = _load_file(path)
    else:
        raise RunError(
            f"there is no experiment {name_or_path!r}; give the path of a Python file "
            f"or one of {', '.join(experiment_names())}."
        )
    make = getattr(module, "experiment", None)
    result = make() if callable(make) else None
    if not isinstance(result, Experiment):
        raise RunError(
            f"{name_or_path} has no function experiment() that returns an Experiment; "
            f"see experiments/toy for examples."
        )
    return result


class _CommandParser(argparse.ArgumentParser):
    """Refuses a command's own options in one sentence too."""

    @override_method
    def error(self, message: str) -> NoReturn:
        _fail(f"{message}; see --help.")


def experiment_parser(
    command: str, description: str | None, epilog: str = ""
) -> argparse.ArgumentParser:
    """A parser with the arguments of every command on an experiment.

    Args:
      command: the module, such as "experiments.train".
      description: what it does.
      epilog: what is printed behind the options.
    """
    parser = _CommandParser(
        prog=f"python -m {command}",
        description=description,
        epilog=f"{epilog}EXPERIMENT --help lists the options of an experiment.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        nargs="?",
        help=f"a Python file, or one of: {', '.join(experiment_names())}",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="take the experiment's tiny form; options override that one",
    )
    return parser


def parse_with_overrides(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The command's own arguments, and those left for the experiment.

    Without an experiment, prints the help and exits with 0 if it was asked for, or 2.
    """
    known, rest = parser.parse_known_args(arguments)
    if known.experiment is None:
        parser.print_help()
        raise SystemExit(0 if asks_for_help(rest) else 2)
    return known, rest


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments left for the experiment ask for its options."""
    return bool({"-h", "--help"} & set(arguments))


def given_experiment(known: argparse.Namespace) -> Experiment:
    """The experiment that was named, or its tiny form if that was asked for."""
    experiment = load_experiment(known.experiment)
    return reduced_twin(experiment) if known.tiny else experiment


def default_directory(known: argparse.Namespace, *endings: str) -> Path:
    """runs/EXPERIMENT, with -tiny where it is, and with what else tells two apart."""
    name = Path(known.experiment).with_suffix("")
    folder = Path("runs") / (name.name if name.is_absolute() else name)
    endings = ("tiny", *endings) if known.tiny else endings
    return folder.with_name("-".join([folder.name, *endings]))


def num_cores() -> int:
    """Cores that this process may use, as XLA counts them for its threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """How much of training the task gets; its rows are for the experiment's file.

    Attributes:
      share: rows of a step, as a share of the sum over all tasks; 0 leaves it out.
      loss_weight: of its loss in the sum that is trained on.
    """

    share: int
    loss_weight: float


def options_of(experiment: Experiment) -> Any:
    """The experiment as options spell it: a dataclass like it, tasks by name.

    What is no option is left out: pieces of rows, and a released model's vocabulary.
    """
    tasks = {
        task.name: TaskOptions(task.share, task.loss_weight)
        for task in experiment.tasks
    }
    by_name = dataclasses.make_dataclass(
        "Tasks", [(name, TaskOptions) for name in tasks], frozen=True
    )
    by_name.__doc__ = "One group of options per task."
    fields = [f for f in dataclasses.fields(Experiment) if f.name != "vocabulary"]
    whole = dataclasses.make_dataclass(
        "Options",
        [(f.name, by_name if f.name == "tasks" else f.type) for f in fields],
        frozen=True,
    )
    whole.__doc__ = Experiment.__doc__
    values = {f.name: getattr(experiment, f.name) for f in fields}
    return whole(**values | {"tasks": by_name(**tasks)})


def override(
    experiment: Experiment, arguments: Sequence[str], program: str
) -> Experiment:
    """Applies options such as `--training.steps 20`.

    `--mod.plan` takes a file or the short form of a function (`mod.plan_from`), for the
    tasks that the experiment routes; without it `--model.num_layers` brings the
    experiment's own plan to that depth.

    Args:
      experiment: the defaults.
      arguments: dotted options; `--help` prints them all and exits.
      program: the command they follow, for that help.

    Raises:
      RunError: for options that are not valid, in one sentence.
      ValueError: for values that do not go together.
    """
    import tyro
    from tyro import _errors as tyro_errors

    experiment = _at_depth(experiment, arguments)
    options = options_of(experiment)
    # tyro would draw a box around its error; its hook hands over what is wrong.
    refuse = functools.partial(refuse_options, options, arguments)
    with tyro_errors.on_parse_error(refuse):
        given = tyro.cli(
            type(options),
            prog=program,
            description="Options of the experiment and their values:",
            default=options,
            args=list(arguments),
            config=(tyro.conf.AvoidSubcommands,),
            use_underscores=True,
            registry=_with_plans(experiment),
        )
    tasks = tuple(
        dataclasses.replace(task, **vars(getattr(given.tasks, task.name)))
        for task in experiment.tasks
    )
    return dataclasses.replace(experiment, **vars(given) | {"tasks": tasks})


def _at_depth(experiment: Experiment, arguments: Sequence[str]) -> Experiment:
    """The experiment with as many layers as its options ask for, and a plan of them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options = ("--model.num_layers", "--model.num-layers")
    parser.add_argument(*options, dest="depth", nargs="?", default=None)
    asked = parser.parse_known_args(list(arguments))[0].depth or ""
    if not asked.isdecimal() or not int(asked):
        return experiment
    model = dataclasses.replace(experiment.model, num_layers=int(asked))
    plan = experiment.mod.at_depth(int(asked))
    return dataclasses.replace(experiment, model=model, mod=plan)


def _with_plans(experiment: Experiment) -> Any:
    """Tyro's registry with one more kind of value: layer plans."""
    from tyro import constructors

    def plan(words: list[str]) -> LayerPlan:
        try:
            return plan_from(
                words[0], experiment.mod.tasks, experiment.model.num_layers
            )
        except ValueError as error:
            # Its sentence says more than tyro's of a ValueError.
            raise RunError(str(error)) from None

    registry = constructors.ConstructorRegistry()

    @registry.primitive_rule
    def plans(info: constructors.PrimitiveTypeInfo) -> Any:
        # Tyro hands on an older spelling of tuple[TaskPlan, ...].
        if get_args(info.type) != (TaskPlan, ...):
            return None
        return constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FILE|MAKER",
            instance_from_str=plan,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [_in_words(value)],
        )

    return registry


def _in_words(plan: LayerPlan) -> str:
    """A plan in a line of help."""
    tasks = [f"{p.task} in {sum(r is not None for r in p.keep_ratios)}" for p in plan]
    return f"{', '.join(tasks)} layers" if tasks else NONE


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Ends the program with one sentence and exit code 2 where the user can help.

    Training has two more codes for scripts that keep a run alive: 75 where it was told
    to stop and has saved, 76 where another process is missing.
    """
    try:
        yield
    except (RunError, ValueError) as error:
        _fail(str(error), getattr(error, "exit_code", 2))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(
                "the disk is full and the last write failed; what was saved before is "
                "intact: free some space and run the same command again."
            )
        _fail(
            f"{error.filename or 'a file'} cannot be used ({error.strerror or error})."
        )
    except KeyboardInterrupt:
        _fail("stopped; run the same command again to resume from the last checkpoint.")
    except Exception:
        if _has_other_processes():
            traceback.print_exc()
            _end_at_once(1)
        raise


def _fail(sentence: str, code: int = 2) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    if _has_other_processes():
        _end_at_once(code)
    raise SystemExit(code)


def _has_other_processes() -> bool:
    """Whether this process has joined others; asks without importing JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _end_at_once(code: int) -> NoReturn:
    """Ends without JAX's farewell, a barrier that waits for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def show_log() -> None:
    """Prints this project's log lines on stderr, and only warnings of others."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("unimod_jax").setLevel(logging.INFO)
    # Orbax logs every thread's traceback before it raises the one error that we report.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    threading.excepthook = _report_thread


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """Prints what a thread died of, but for a writer out of disk: main reports that."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def keep_compiled_programs() -> None:
    """Keeps what XLA compiled under .cache/ for the next command of this machine.

    Called by real processes only: it is a setting of the whole process. Programs that
    compile in less than half a second are not worth a file.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", str(Path(".cache/jax").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
