"""`groundup data ...`: look at a corpus before, while and after it is built. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundup.cli.options import AsJson, RunsFolder

data = typer.Typer(help="Look at a corpus: what was kept, what was dropped, and why.", no_args_is_help=True)

Run = Annotated[str, typer.Argument(metavar="RUN", help="a run's folder or name, or a corpus folder")]
StageName = Annotated[
    str | None, typer.Option("--stage", help="which corpus stage, where there are several", metavar="STAGE")
]


@data.command("preview")
def preview(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one that comes with groundup")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="settings to change")] = None,
    source: Annotated[list[str] | None, typer.Option("--source", help="only this source", metavar="NAME")] = None,
    documents: Annotated[int, typer.Option(min=1, help="documents of each source that are shown")] = 3,
    sample: Annotated[int, typer.Option(min=1, help="documents of each source that go through the steps")] = 60,
    stage: StageName = None,
    as_json: AsJson = False,
) -> None:
    """A few documents of each source through all steps, in seconds, before anything is built.

    Example: [bold]groundup data preview mine.yaml --source web[/]
    """
    from groundup.cli import previewing

    previewing.preview(
        recipe,
        overrides or [],
        stage_name=stage,
        only=source or [],
        shown=documents,
        sample=sample,
        as_json=as_json,
    )


@data.command("stats")
def stats(
    run: Run,
    source: Annotated[str | None, typer.Option("--source", help="of this source only", metavar="NAME")] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help="show the documents nearest to this rule's threshold", metavar="WORDS")
    ] = None,
    stage: StageName = None,
    as_json: AsJson = False,
    runs: RunsFolder = None,
) -> None:
    """Funnel, rules with their thresholds, distributions, rates, and what 1 TB and 100 TB would take.

    Example: [bold]groundup data stats runs/demo --rule "too few words"[/]
    """
    from groundup.cli import corpora

    corpora.show_stats(run, home=runs, stage_name=stage, source=source, rule=rule, as_json=as_json)


@data.command("why")
def why(
    document: Annotated[str, typer.Argument(metavar="DOC_ID", help="a document's id, or its address")],
    run: Run,
    stage: StageName = None,
    no_source: Annotated[
        bool, typer.Option("--no-source", help="do not read the source again for what is not kept")
    ] = False,
    as_json: AsJson = False,
    runs: RunsFolder = None,
) -> None:
    """The fate of one document: every step, signal and threshold, and the text that it was dropped for.

    Example: [bold]groundup data why books/hamlet#3 runs/demo[/]
    """
    from groundup.cli import corpora

    corpora.show_why(document, run, home=runs, stage_name=stage, read_source=not no_source, as_json=as_json)


@data.command("card")
def card(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="write it there")] = None,
    stage: StageName = None,
    as_json: AsJson = False,
    runs: RunsFolder = None,
) -> None:
    """The data card in the format of the Hugging Face Hub, made anew from the corpus's files.

    Example: [bold]groundup data card runs/demo -o README.md[/]
    """
    from groundup.cli import corpora

    corpora.show_card(run, home=runs, stage_name=stage, output=output, as_json=as_json)


@data.command("run-shard")
def run_shard(
    tasks: Annotated[Path, typer.Argument(metavar="TASKS", help="the tasks.jsonl that a build has written")],
    index: Annotated[int, typer.Argument(min=0, help="which task; with --stride the first one")],
    stride: Annotated[int, typer.Option(min=1, help="and every so manyth after it")] = 1_000_000_000,
) -> None:
    """Do shards of a corpus build: what the jobs of a Slurm array call. Ends with 1 where one of them failed.

    Example: [bold]groundup data run-shard tasks.jsonl $SLURM_ARRAY_TASK_ID --stride 100[/]
    """
    from groundup.corpus.engines.slurm import run_shards
    from groundup.errors import EXIT_FAILED

    if run_shards(tasks, index, stride):
        raise typer.Exit(EXIT_FAILED)
