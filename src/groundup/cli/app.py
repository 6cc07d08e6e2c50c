"""The front door: one verb for each thing a person wants. Nothing heavy is imported here; `verbs.py` does the work.

Results go to stdout, narration to stderr. Exit codes: 0 done, 1 failed, 2 usage or recipe, 3 refused by the gate,
75 stopped and saved, 130 Ctrl-C and saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from groundup import __version__
from groundup.cli.data import data
from groundup.cli.options import AsJson, Quiet, RunsFolder
from groundup.environment import command_name, spin_less
from groundup.errors import EXIT_FAILED, Stopped, UserError

EPILOG = (
    "--runs FOLDER or GROUNDUP_HOME choose where runs lie (default ./runs). --debug shows tracebacks. Exit codes: "
    "0 done, 1 failed, 2 usage or recipe, 3 refused by the gate, 75 stopped and saved, 130 Ctrl-C and saved."
)
app = typer.Typer(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
config = typer.Typer(help="Look up what can be written in a recipe.", no_args_is_help=True)
app.add_typer(config, name="config", rich_help_panel="Recipes")
tokens = typer.Typer(help="Look at what a run trains on.", no_args_is_help=True)
app.add_typer(tokens, name="tokens", rich_help_panel="Runs")
app.add_typer(data, name="data", rich_help_panel="Runs")


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    from groundup.cli import verbs

    return verbs.complete(context.params.get("recipe"), incomplete)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="settings to change, YAML values", autocompletion=_complete),
]
ProcessesOption = Annotated[
    str, typer.Option("--processes", help="processes that train a stage together on this machine", metavar="N|auto")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="build anew what is done already")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"groundup {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """A language model's whole life in one recipe: data, pre-training, fine-tuning, alignment, exams, release.

    New here? [bold]groundup demo[/] builds and judges a small assistant from raw text on this machine.
    """
    del version
    if context.invoked_subcommand is None:
        print(context.get_help())


# ---------------------------------------------------------------- start


@app.command(rich_help_panel="Start")
def demo(
    overrides: Overrides = None,
    fresh: Fresh = False,
    runs: RunsFolder = None,
    quiet: Quiet = False,
    processes: ProcessesOption = "auto",
) -> None:
    """A tiny model's whole life on this machine, ending in a report and a chat. The same command goes on.

    Example: [bold]groundup demo base.max_steps=200[/]
    """
    from groundup.cli import verbs

    raise typer.Exit(verbs.demo(overrides or [], fresh=fresh, home=runs, quiet=quiet, debug=DEBUG, processes=processes))


@app.command(rich_help_panel="Start")
def init(
    recipe: Annotated[str, typer.Argument(help="which recipe to copy (see --list)")] = "demo",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="where to write it")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="show the recipes that come with groundup")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Write a commented recipe to start from.

    Example: [bold]groundup init demo -o mine.yaml[/]
    """
    from groundup.cli import verbs

    if list_recipes:
        verbs.list_recipes()
    else:
        verbs.init(recipe, output, force=force)


@app.command(rich_help_panel="Start")
def doctor(as_json: AsJson = False) -> None:
    """What this machine can do, what is missing, and the line that fixes it.

    Example: [bold]groundup doctor[/]
    """
    from groundup.cli import doctor as room

    raise typer.Exit(room.doctor(as_json=as_json))


# ---------------------------------------------------------------- recipes


@app.command(rich_help_panel="Recipes")
def check(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one that comes with groundup")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    runs: RunsFolder = None,
) -> None:
    """Everything a run does before it starts: mistakes, inputs, trained tokens, disk, memory, time. Runs nothing.

    Example: [bold]groundup check mine.yaml base.max_steps=50[/]
    """
    from groundup.cli import verbs

    raise typer.Exit(verbs.check(recipe, overrides or [], home=runs, as_json=as_json))


@app.command(rich_help_panel="Recipes")
def run(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one that comes with groundup")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STAGE|KEY=VALUE",
            help="only these stages and what they need; settings",
            autocompletion=_complete,
        ),
    ] = None,
    fresh: Fresh = False,
    runs: RunsFolder = None,
    quiet: Quiet = False,
    processes: ProcessesOption = "auto",
) -> None:
    """Run a recipe, or some of its stages. What is done is skipped; what was cut off goes on.

    Example: [bold]groundup run mine.yaml exam base.learning_rate=1e-3[/]
    """
    from groundup.cli import verbs

    raise typer.Exit(
        verbs.run(recipe, words or [], fresh=fresh, home=runs, quiet=quiet, debug=DEBUG, processes=processes)
    )


@config.command("explain")
def config_explain(
    key: Annotated[str, typer.Argument(help="a key (learning_rate), stage.key (sft.learning_rate) or a kind (sft)")],
    as_json: AsJson = False,
) -> None:
    """What a key of a recipe means, its type and its default.

    Example: [bold]groundup config explain sft.learning_rate[/]
    """
    from groundup.cli import verbs

    verbs.explain(key, as_json=as_json)


@config.command("schema")
def config_schema(as_json: AsJson = False) -> None:
    """The JSON schema of a recipe, for editors and other programs.

    Example: [bold]groundup config schema > recipe.schema.json[/]
    """
    from groundup.cli import verbs

    del as_json  # it is JSON in any case; the option is there because every reading verb has it
    verbs.schema()


# ---------------------------------------------------------------- runs


@app.command(rich_help_panel="Runs")
def runs(as_json: AsJson = False, runs: RunsFolder = None) -> None:
    """All runs: state, stage, step, time, verdict.

    Example: [bold]groundup runs[/]
    """
    from groundup.cli import verbs

    verbs.runs(home=runs, as_json=as_json)


@app.command(rich_help_panel="Runs")
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's folder or name")],
    as_json: AsJson = False,
    runs: RunsFolder = None,
) -> None:
    """Write a run's report.html, one file that opens from disk, and print where it is.

    Example: [bold]groundup report runs/demo --json[/]
    """
    from groundup.cli import verbs

    verbs.report(run, home=runs, as_json=as_json)


@app.command(rich_help_panel="Runs")
def lineage(
    path: Annotated[str, typer.Argument(metavar="PATH", help="a run, a stage's folder, or a file in it")],
    as_json: AsJson = False,
    runs: RunsFolder = None,
) -> None:
    """What an artifact was made from: fingerprints, and the settings that differ from the defaults.

    Example: [bold]groundup lineage runs/demo/aligned[/]
    """
    from groundup.cli import lineage as room

    room.show_lineage(path, home=runs, as_json=as_json)


@tokens.command("show")
def tokens_show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's folder or name, finished or not")],
    stage: Annotated[str | None, typer.Option(help="which stage, where several pre-train", metavar="STAGE")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="a step, as in metrics.jsonl")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="a batch, also one that skip_steps leaves out")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="show so many rows only")] = None,
    as_json: AsJson = False,
    runs: RunsFolder = None,
) -> None:
    """What was in a step: source, place, documents and text of every row, exactly as training saw it.

    Example: [bold]groundup tokens show runs/demo --step 120 --rows 4[/]
    """
    from groundup.cli import showing

    showing.show_tokens(run, home=runs, stage_name=stage, step=step, batch=batch, rows=rows, as_json=as_json)


# ---------------------------------------------------------------- use


@app.command(rich_help_panel="Use")
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a run, a stage's folder, or a Hugging Face folder")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="answer this and end", metavar="TEXT")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="most tokens in one reply")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most likely token")] = 0.7,
    system: Annotated[str | None, typer.Option(help="a system message", metavar="TEXT")] = None,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same replies")] = None,
    runs: RunsFolder = None,
) -> None:
    """Talk to a model. A run stands for its candidate for release, or its newest chat model.

    Example: [bold]groundup chat runs/demo --prompt "What is 7 + 5?"[/]
    """
    from groundup.cli import chatting

    options = chatting.ChatOptions(max_new_tokens, temperature, system, seed)
    chatting.chat(model, prompt, options, home=runs)


# ---------------------------------------------------------------- the one place where everything ends

DEBUG = False
SAME_COMMAND = "  -> run the same command to go on"


def main() -> None:
    """Entry point of `groundup`: errors become a few plain lines and an exit code."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    global DEBUG
    DEBUG = "--debug" in arguments
    spin_less()
    arguments = [word for word in arguments if word != "--debug"]
    try:
        app(args=arguments, prog_name="groundup")
        return 0
    except SystemExit as ending:
        if _was_ctrl_c(ending):
            print(f"stopped\n{SAME_COMMAND}", file=sys.stderr)
        return _flushed(ending.code if isinstance(ending.code, int) else EXIT_FAILED if ending.code else 0)
    except UserError as error:
        if DEBUG:
            raise
        count = len(error.problems)
        text = str(error).replace("`groundup ", f"`{command_name()} ")  # a hint must be what this person can type
        print(f"{text}\n\n{count} problems" if count > 1 else text, file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        print(f"stopped: {stopped}\n{SAME_COMMAND}", file=sys.stderr)
        return stopped.exit_code
    except BrokenPipeError:  # the reader of our output went away (`| head`): nothing to say, and nobody to say it to
        _drop_output()
        return 0
    except Exception as error:
        if DEBUG:
            raise
        print(f"groundup itself failed: {type(error).__name__}: {error}", file=sys.stderr)
        print("  -> run the command again with --debug to see where", file=sys.stderr)
        return EXIT_FAILED


def _was_ctrl_c(error: BaseException | None) -> bool:
    """Whether a Ctrl-C lies behind this: typer turns it into a wordless exit with code 130."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _flushed(exit_code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    return exit_code


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
