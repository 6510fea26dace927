"""The command line: a subcommand per stage, and pipeline, quickstart, preflight, status and settings.

`python -m jobs.STAGE` is the same command for `ray job submit`. Exit codes: 0 done; 1 failed; 2 bad config or
input, before Ray starts; 3 stopped on purpose, and the same command goes on.
"""

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from tqdm import tqdm

from uniner.config.loader import load
from uniner.config.reference import brief
from uniner.config.reference import describe as describe_settings
from uniner.config.schema import Config
from uniner.display import visible
from uniner.errors import Stopped, UserError, printable
from uniner.progress import VERBOSE, set_up_logging
from uniner.runtime.stage_context import Stage, StageContext
from uniner.runtime.wind_down import begin_wind_down
from uniner.storage.filesystem import is_remote
from uniner.storage.lease import hold_lease, require_free
from uniner.storage.stage_folder import run_folder
from uniner.storage.trouble import set_patience

_STOPPED = 3
"""The exit code of a stop on purpose: the same command goes on."""
_PREFLIGHT_PATIENCE_S = 20.0
"""Seconds for which preflight asks a storage in trouble again; a run asks for longer."""
_SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that `ray job submit` sets for the job's process."""
STAGES = (
    "generate", "ingest", "annotate", "describe", "build", "train", "train-encoder", "evaluate", "tag",
    "report",
)  # fmt: skip

_PACKAGES = {"train-encoder": "train.encoder"}
"""The packages of stages that have another name."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Distil the open named-entity recognition of a large language model, and tag a corpus with it.",
)

reviews = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Give tagged passages to people to correct, and read them back as gold data.",
)
app.add_typer(reviews, name="review")

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="TOML file, such as my-run.toml.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Settings over the file's.", show_default=False),
]
Estimate = Annotated[bool, typer.Option("--estimate", help="Only say what the stage would take and cost.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Ask again about the failed rows of the complete stage.")
]


def _verbose(wanted: bool) -> None:
    if wanted:
        os.environ[VERBOSE] = "1"


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", callback=_verbose, help="Show the logs of Ray and vLLM too (UNINER_VERBOSE=1)."
    ),
]


def _command(
    text: str, *sections: str, name: str | None = None, of: typer.Typer = app
) -> Callable[[Any], Any]:
    """Register a command, with its sections' settings below its options (\\b: click keeps the lines)."""
    paragraphs = ["\b\n" + "\n".join(brief(section, width=106)) for section in sections]
    more = [f"`uniner settings {section}` has all of [{section}]." for section in sections]
    return of.command(name, help=text, epilog="\n\n".join([*paragraphs, *more]))


@_command("Have the teacher write passages of domains.", "generate")
def generate(
    config: ConfigFile,
    settings: Settings = None,
    estimate: Estimate = False,
    retry_failed: RetryFailed = False,
    verbose: Verbose = False,
) -> None:
    _run_or_estimate("generate", config, settings, estimate, retry_failed)


@_command("Cut corpus shards into passages.", "ingest")
def ingest(
    config: ConfigFile,
    settings: Settings = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the shards that the run does not have yet.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    _exit(run(["ingest"], _words(config, settings), append=append))


@_command("Have the teacher annotate the passages.", "annotate", "teacher")
def annotate(
    config: ConfigFile,
    settings: Settings = None,
    estimate: Estimate = False,
    retry_failed: RetryFailed = False,
    verbose: Verbose = False,
) -> None:
    _run_or_estimate("annotate", config, settings, estimate, retry_failed)


@_command("Have the teacher describe the most frequent types and name synonyms.", "describe")
def describe(
    config: ConfigFile,
    settings: Settings = None,
    estimate: Estimate = False,
    retry_failed: RetryFailed = False,
    verbose: Verbose = False,
) -> None:
    _run_or_estimate("describe", config, settings, estimate, retry_failed)


@_command("Make conversations of the annotations and gold data.", "build")
def build(config: ConfigFile, settings: Settings = None, verbose: Verbose = False) -> None:
    _exit(run(["build"], _words(config, settings)))


@_command("Train the student on the conversations.", "train")
def train(
    config: ConfigFile, settings: Settings = None, estimate: Estimate = False, verbose: Verbose = False
) -> None:
    _run_or_estimate("train", config, settings, estimate)


@_command("Train an encoder on the conversations, for bulk tagging.", "encoder", name="train-encoder")
def train_encoder(
    config: ConfigFile, settings: Settings = None, estimate: Estimate = False, verbose: Verbose = False
) -> None:
    _run_or_estimate("train-encoder", config, settings, estimate)


@_command("Score systems on gold data.", "evaluate")
def evaluate(
    config: ConfigFile,
    settings: Settings = None,
    datasets: Annotated[
        bool, typer.Option("--datasets", help="Only list the benchmark's data sets, and which are at hand.")
    ] = False,
    retry_failed: RetryFailed = False,
    verbose: Verbose = False,
) -> None:
    if datasets:
        _exit(
            _mode("evaluate", _words(config, settings), lambda stage, context: stage.list_datasets(context))
        )
    _exit(run(["evaluate"], _words(config, settings), retry_failed=retry_failed))


@_command("Tag the passages with the student.", "tag")
def tag(
    config: ConfigFile,
    settings: Settings = None,
    estimate: Estimate = False,
    text: Annotated[
        str | None, typer.Option(help="Only tag this text (`-`: standard input) and print it in colour.")
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=1, max=65535, help="Serve a page that tags what is typed."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    if estimate + (text is not None) + (serve is not None) > 1:
        raise typer.BadParameter("take one of --estimate, --text and --serve")
    if text is not None:
        _exit(_mode("tag", _words(config, settings), lambda stage, context: stage.tag_text(context, text)))
    if serve is not None:
        _exit(_mode("tag", _words(config, settings), lambda stage, context: stage.serve_page(context, serve)))
    _run_or_estimate("tag", config, settings, estimate)


@_command("Choose tagged passages for people to correct.", "review", name="export", of=reviews)
def review_export(config: ConfigFile, settings: Settings = None, verbose: Verbose = False) -> None:
    _exit(_mode("review", _words(config, settings), lambda stage, context: stage.export_round(context)))


@_command("Read corrected passages back as gold data.", "review", name="import", of=reviews)
def review_import(
    config: ConfigFile,
    file: Annotated[
        list[str],
        typer.Option(help="Label Studio's JSON export, the form's saved file, or JSON lines; repeat it."),
    ],
    settings: Settings = None,
    reviewer: Annotated[str, typer.Option(help="Who reviewed, where a file does not say it.")] = "",
    number: Annotated[
        int | None, typer.Option("--round", min=1, help="The round that was reviewed. Unset: the newest.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    _exit(
        _mode(
            "review",
            _words(config, settings),
            lambda stage, context: stage.import_reviews(context, file, reviewer, number),
        )
    )


@_command(
    "Write the run's HTML page, report.html, and print it in short; also of an unfinished run.", "report"
)
def report(
    config: ConfigFile,
    settings: Settings = None,
    compare_with: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="RUN_FOLDER",
            help="Show the entities of another run on the same corpus beside this run's, passage by passage; "
            "the run's own folder: those of its teacher.",
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    words = _words(config, settings)
    _exit(_mode("report", words, lambda stage, context: stage.run(context, compare_with)))


@_command("Run all stages in order; complete ones are skipped.")
def pipeline(config: ConfigFile, settings: Settings = None, verbose: Verbose = False) -> None:
    _exit(run(STAGES, _words(config, settings)))


@_command("Run all stages on the corpus that ships; no key, no GPU.")
def quickstart(settings: Settings = None, verbose: Verbose = False) -> None:
    from uniner.quickstart.prepare import prepare

    config = resources.files("jobs").joinpath("configs/quickstart.toml")
    _exit(run(STAGES, _words(str(config), settings), prepare))


@_command("Check what a run needs (rights, keys, models, GPUs, input) before a cluster is paid for.")
def preflight(
    config: ConfigFile,
    settings: Settings = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Check what this stage needs; repeat it. All by default."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    _exit(_exit_code(lambda: _check_before(_words(config, settings), stage or STAGES[:-1])))


@_command("Say what of a run is done, and what it has cost.")
def status(config: ConfigFile, settings: Settings = None) -> None:
    from uniner.report.status import describe_status

    def show(words: Sequence[str]) -> None:
        section = _load(words).run
        print(describe_status(run_folder(section.root, section.name), STAGES[:-1]))

    _exit(_exit_code(lambda: show(_words(config, settings))))


@_command("List all settings, or those of a section.", name="settings")
def list_settings(section: Annotated[str | None, typer.Argument(metavar="[SECTION]")] = None) -> None:
    _exit(_exit_code(lambda: print(describe_settings(section))))


def _load(words: Sequence[str]) -> Config:
    """Load the config, and refuse a submitted job's output where Ray would delete it."""
    config = load(words)
    root = config.run.root
    if _SUBMITTED_JOB in os.environ and not (is_remote(root) or Path(root).is_absolute()):
        raise UserError(
            f"run.root = {root!r} is relative: in a submitted job it would be in Ray's temporary folder; set "
            "an address that all nodes see, such as run.root=s3://my-bucket/uniner"
        )
    set_patience(config.run.storage_patience_s)
    return config


def run(
    stages: Sequence[str],
    words: Sequence[str],
    prepare: Callable[[Config], Config] | None = None,
    *,
    retry_failed: bool = False,
    append: bool = False,
) -> int:
    """Check stages, start Ray and run them in order, on the words' config. Returns the exit code.

    prepare: makes what the stages read, and returns the config that names it. retry_failed, append:
    see `StageContext`.
    """

    def check() -> list[tuple[Stage, StageContext]]:
        config = _load(words)
        config = prepare(config) if prepare else config
        checked = [
            (module, _context(config, module, retry_failed, append)) for module in map(_module, stages)
        ]
        for module, context in checked:
            if _works_in_its_folder(context):
                require_free(context.folder)
            module.check(context)
            for parent in module.parents(context):
                if parent not in stages:
                    (context.run_folder / parent).require_manifest()
        return checked

    return _exit_code(lambda: _run_checked(check()))


def _run_checked(stages: Sequence[tuple[Stage, StageContext]]) -> None:
    from uniner.runtime import connection  # Ray takes seconds to import: only once the config is right

    try:
        # A stage that fails keeps its lease until Ray has ended, and with it the actors that write.
        with contextlib.ExitStack() as leases, connection.connected():
            for module, context in stages:
                _raise_missed_stop()
                if _works_in_its_folder(context):
                    leases.enter_context(hold_lease(context.folder))
                module.run(context)
                leases.close()
    except Stopped:
        raise
    except Exception as error:
        if isinstance(error, connection.RayStartError) or not isinstance(error, UserError):
            _raise_missed_stop()
        if user_error := connection.user_error_in(error):
            raise _FailedError(str(user_error)) from None
        if death := connection.death_in(error):
            raise _FailedError(f"{death}; the same command goes on") from None
        raise


def _check_before(words: Sequence[str], stages: Sequence[str]) -> None:
    """Print a line for each check of what stages need.

    Raises:
        _FailedError: a check failed.
    """
    if unknown := sorted(set(stages) - set(STAGES[:-1])):
        raise UserError(f"--stage {unknown[0]}: must be one of {', '.join(STAGES[:-1])}")
    config = _load(words)
    set_patience(min(config.run.storage_patience_s, _PREFLIGHT_PATIENCE_S))
    from uniner.preflight.nodes import machines
    from uniner.preflight.plan import SECTIONS, RunPlan
    from uniner.preflight.results import run_checks

    modules = {name: _module(name) for name in STAGES if name in stages}
    plan = RunPlan(
        context=StageContext.of(config, "preflight", SECTIONS),
        stages={name: (module, _context(config, module)) for name, module in modules.items()},
        find_machines=machines,
    )
    errors = run_checks(plan.checks(), lambda line: tqdm.write(visible(printable(line)), file=sys.stdout))
    if errors:
        raise _FailedError(f"preflight: {errors:,} {'error' if errors == 1 else 'errors'}, see above")


def _works_in_its_folder(context: StageContext) -> bool:
    """Tell whether a stage needs its folder for itself: all but report, which reads and writes one page."""
    return context.stage != "report"


class _FailedError(Exception):
    """A user's error after Ray started."""


def _mode(stage: str, words: Sequence[str], act: Callable[[Any, StageContext], object]) -> int:
    """Do something else with a stage than run it, such as an estimate. Returns the exit code."""

    def act_on_stage() -> None:
        module = _module(stage)
        act(module, _context(_load(words), module))

    return _exit_code(act_on_stage)


def _run_or_estimate(
    stage: str, config: str, settings: list[str] | None, estimate: bool, retry_failed: bool = False
) -> NoReturn:
    words = _words(config, settings)
    if estimate:
        _exit(
            _mode(
                stage,
                words,
                lambda module, context: print(visible(printable(str(module.estimate(context)))), flush=True),
            )
        )
    _exit(run([stage], words, retry_failed=retry_failed))


def _exit_code(act: Callable[[], object]) -> int:
    """Do something, and log the error that a user can cause. Returns the exit code."""
    set_up_logging()
    _stop_on_signals()
    try:
        act()
    except UserError as error:
        return _print_error(str(error), 2)
    except _FailedError as error:
        return _print_error(str(error), 1)
    except Stopped as stopped:
        tqdm.write(f"{stopped}; the same command goes on from here", file=sys.stderr)
        return _STOPPED
    return 0


def _print_error(message: str, code: int) -> int:
    tqdm.write(f"error: {visible(message)}", file=sys.stderr)
    return code


def _module(stage: str) -> Stage:
    return importlib.import_module(f"uniner.{_PACKAGES.get(stage, stage)}.stage")  # type: ignore[return-value]


def _context(config: Config, module: Stage, retry_failed: bool = False, append: bool = False) -> StageContext:
    package = module.__name__.removeprefix("uniner.").removesuffix(".stage")  # type: ignore[attr-defined]
    stage = next((stage for stage, other in _PACKAGES.items() if other == package), package)
    return StageContext.of(config, stage, module.SECTIONS, retry_failed=retry_failed, append=append)


def _words(config: str, settings: list[str] | None) -> list[str]:
    return [config, *(settings or [])]


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


_stopped_by: list[int] = []
"""The signal that a stop was raised for."""


def _stop_on_signals() -> None:
    _stopped_by.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    if begin_wind_down(number):
        return
    signal.signal(number, signal.SIG_DFL)  # another signal ends the job at once
    _stopped_by.append(number)
    _raise_missed_stop()


def _raise_missed_stop() -> None:
    """Raise the stop that a signal asked for: a library, or an import, may have caught it or changed it."""
    if _stopped_by:
        raise Stopped(f"stopped by {signal.Signals(_stopped_by[0]).name}")


def main(command: str | None = None) -> None:
    """Run the command line, or one command of it with the words that follow."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that is not UTF-8 shows what it can
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(args=[command, *sys.argv[1:]] if command else None, prog_name="uniner")
    except SystemExit as end:
        if end.code != _STOPPED:
            raise
        # A thread may still wait in Ray's C++ code, as for the end of a training: Python's own end would
        # pull it from under that thread, and the process would end with a segmentation fault.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_STOPPED)


if __name__ == "__main__":
    main()
