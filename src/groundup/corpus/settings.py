"""What a corpus stage may be told. Light: read by every `groundup check` and `groundup --help`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from groundup.corpus.source_settings import (  # noqa: F401 - what a recipe's author looks for here
    BooksSource,
    DialogueSource,
    PathSource,
    PythonCodeSource,
    PythonDocsSource,
    RowsSource,
    Source,
    SourceSettings,
    TextSource,
    WarcSource,
    WikipediaSource,
)
from groundup.corpus.weights import check_weights, language_mistakes
from groundup.recipe import FileRef, MistakesError, Presentation, Settings, StageSettings

Share = Annotated[float, Field(ge=0, le=1)]
PiiType = Literal["email", "phone", "ip", "iban", "card", "ssn", "national_id", "secret", "address", "name"]
PII_TYPES: tuple[PiiType, ...] = ("email", "phone", "ip", "iban", "card", "ssn", "national_id")

# ---------------------------------------------------------------- steps


class QualityRules(Settings):
    """Thresholds for prose (Gopher, C4, FineWeb) and code. `null` switches a rule off."""

    min_words: NonNegativeInt | None = 50
    """Fewest words of a page or article (Gopher). Dialogue and documentation have their own, lower bound."""
    max_words: PositiveInt | None = 100_000
    """Most words of a document (Gopher)."""
    min_mean_word_chars: NonNegativeFloat | None = 3.0
    """Shortest mean word length (Gopher). Korean has a bound of its own."""
    max_mean_word_chars: NonNegativeFloat | None = 10.0
    """Longest mean word length (Gopher). Languages with longer words have bounds of their own."""
    max_word_chars: PositiveInt | None = 1_000
    """Longest run of characters without a blank (C4)."""
    max_symbols_per_word: NonNegativeFloat | None = 0.1
    """Most `#` per word, and most ellipses per word (Gopher)."""
    max_curly_brackets_per_word: NonNegativeFloat | None = 0.02
    """Most curly brackets per word; web pages only (C4 drops a page for a single one, and with it pages on code)."""
    max_bullet_lines: Share | None = 0.9
    """Largest share of lines that start with a bullet (Gopher)."""
    max_ellipsis_lines: Share | None = 0.3
    """Largest share of lines that end with an ellipsis (Gopher)."""
    min_alphabetic_words: Share | None = 0.7
    """Smallest share of words with a letter in them (Gopher asks 0.8; tables of real pages need 0.7)."""
    max_capitalised_words: Share | None = None
    """Largest share of words in capitals only. Off: plays and lists of names are full of them."""
    min_unique_words: Share | None = None
    """Smallest share of different words among all. Off: it falls with a text's length."""
    min_stop_words: NonNegativeInt | None = 2
    """Fewest different stop words of its language; languages without a list are not asked (Gopher)."""
    min_sentences: NonNegativeInt | None = None
    """Fewest sentences; web pages only. Off (C4 asks for 5 in the paper, 3 in its code)."""
    max_duplicate_lines: Share | None = 0.3
    """Largest share of repeated lines, of those of 20 characters and more; web pages only (Gopher)."""
    max_duplicate_line_chars: Share | None = 0.3
    """Largest share of characters in repeated lines (Gopher asks 0.2, FineWeb 0.1)."""
    max_duplicate_paragraphs: Share | None = 0.3
    """Largest share of repeated paragraphs; web pages only (Gopher)."""
    max_duplicate_paragraph_chars: Share | None = 0.2
    """Largest share of characters in repeated paragraphs (Gopher)."""
    max_top_ngram: Share | None = 0.2
    """Largest share of characters in the most frequent 2-gram; 0.9 and 0.8 of it for 3- and 4-grams (Gopher)."""
    max_duplicate_ngrams: Share | None = 0.25
    """Largest share of characters in repeated 10-grams; 1.1, 1.2 ... 1.5 times it for 9-, 8- ... 5-grams (Gopher asks
    0.1; plays and tables need more)."""
    min_punctuated_lines: Share | None = 0.12
    """Smallest share of lines that end in punctuation; web pages only (FineWeb)."""
    max_short_lines: Share | None = 0.67
    """Largest share of lines under 30 characters; web pages only (FineWeb)."""
    max_line_breaks_per_word: NonNegativeFloat | None = 0.3
    """Most line ends per word; web pages only (FineWeb)."""
    boilerplate: bool = True
    """Drop pages that say `lorem ipsum`, and lines that ask for JavaScript or cookies (C4); web pages only."""
    max_code_line_chars: PositiveInt | None = 1_000
    """Longest line of a source file; longer ones are minified or data (The Stack)."""
    max_code_mean_line_chars: PositiveInt | None = 100
    """Longest mean line of a source file (The Stack)."""
    min_code_alphanumeric: Share | None = 0.25
    """Smallest share of letters and digits in a source file (The Stack)."""
    max_code_digits: Share | None = 0.3
    """Largest share of digits in a source file: above it, the file is a table of numbers."""
    min_classifier_score: Share | None = None
    """Smallest score of the quality classifier. Without it: the threshold that its training found."""
    max_perplexity: PositiveFloat | None = None
    """Largest perplexity per word under the n-gram model."""
    overrides: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    """Other thresholds for a language or a kind of document: `{fi: {max_mean_word_chars: 14}, docs: {min_words: 5}}`.
    The thresholds of a language come before those of a kind."""

    @model_validator(mode="after")
    def _overrides_fit(self) -> QualityRules:
        known = sorted(set(type(self).model_fields) - {"overrides", "boilerplate"})
        for key, thresholds in self.overrides.items():
            if not re.fullmatch(r"[a-z]{2,3}|html|wikitext|prose|docs|dialogue|code", key):
                raise ValueError(f"overrides: {key!r} is neither a language code nor a kind of document")
            for name, value in thresholds.items():
                if name not in known:
                    near = get_close_matches(name, known, 1)
                    raise ValueError(
                        f"overrides.{key}: no rule {name!r}" + (f"; did you mean {near[0]}?" if near else "")
                    )
                if value is not None and value < 0:
                    raise ValueError(f"overrides.{key}.{name}: {value} is below 0")
        return self


class ExamFiles(Settings):
    """Exam items from files: every text field of .jsonl, .json, .csv; every paragraph of .txt."""

    path: FileRef
    """A file, a folder, a glob or `package:NAME/GLOB`."""
    fields: tuple[str, ...] = ()
    """Which fields to look at. Empty: every field that holds text."""


class ExamTasks(Settings):
    """Exam items that groundup makes itself: questions of these task families."""

    tasks: tuple[str, ...]
    """Names of task families (addition, sort_digits, ...)."""
    split: Literal["train", "held_out"] = "held_out"
    """Which split of the questions."""
    rows: PositiveInt = 400
    """How many questions."""
    seed: int | None = None
    """Seed of the questions. Without it, the stage's."""


class HeldOut(Settings):
    """Documents kept apart, per source, to measure bits per byte on."""

    share: Share = 0.03
    """Share of each source's bytes."""
    max_bytes: PositiveInt = 1_000_000
    """At most this many bytes of each source."""


class ClassifierSettings(Settings):
    """A quality classifier: one that was trained before, or trained here on good texts against bad ones."""

    model: FileRef | None = None
    """The folder of a trained one."""
    good: Source | None = None
    """Texts as they should be: any source (`{type: wikipedia, path: ...}`)."""
    bad: Source | None = None
    """Texts as they should not be. Without it: a sample of this corpus itself."""
    documents: PositiveInt = 5_000
    """At most so many of each."""
    precision: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """How sure a document must be good; the threshold follows, unless `quality.min_classifier_score` says one."""
    keep_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of `precision`: keep about this share of the corpus, its best. For `good` alone, without `bad`."""

    @model_validator(mode="after")
    def _one_of_two(self) -> ClassifierSettings:
        if (self.model is None) == (self.good is None):
            raise ValueError("name either `model`, a trained one, or `good`, texts to learn from")
        if self.keep_share is not None and (self.model is not None or self.bad is not None):
            raise ValueError("keep_share is learned from a sample of the corpus: leave out `bad` and `model`")
        return self


class PerplexitySettings(Settings):
    """An n-gram model of reference text: what it finds surprising is measured, `quality.max_perplexity` judges."""

    model: FileRef | None = None
    """The folder of a trained one."""
    reference: Source | None = None
    """Texts to learn from: any source."""
    documents: PositiveInt = 20_000
    """At most so many of them."""
    language: str = "en"
    """Of the reference; documents in other languages are not measured."""

    @model_validator(mode="after")
    def _one_of_two(self) -> PerplexitySettings:
        if (self.model is None) == (self.reference is None):
            raise ValueError("name either `model`, a trained one, or `reference`, texts to learn from")
        return self


class ToxicitySettings(Settings):
    """A toxicity model by category: one that was trained before, or trained here on labelled rows."""

    model: FileRef | None = None
    """The folder of a trained one."""
    rows: FileRef | None = None
    """Labelled rows (.jsonl or .csv, also .gz): `text`, and 0 or 1 in a field for each category."""
    precision: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """How sure a document must be toxic to be dropped; a threshold for each category follows."""
    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = 0.02
    """The share of toxic documents at which `precision` is meant: labelled rows have far more than a corpus. `null`:
    that of the rows."""
    background: NonNegativeInt = 1_000
    """Learn from so many documents of this corpus, a fifth of it at most, as not toxic. 0: from the rows alone."""
    max_scores: dict[str, Share | None] = Field(default_factory=dict)
    """Other thresholds, by category. `null`: the category is measured and drops nothing."""

    @model_validator(mode="after")
    def _one_of_two(self) -> ToxicitySettings:
        if (self.model is None) == (self.rows is None):
            raise ValueError("name either `model`, a trained one, or `rows`, labelled texts to learn from")
        return self


class NamesSettings(Settings):
    """A tagger for names of people: one that was trained before, or trained here on labelled sentences."""

    model: FileRef | None = None
    """The folder of a trained one."""
    rows: FileRef | None = None
    """Labelled sentences in IOB2 (also .gz): number, word and tag by tabs; `B-PER` and `I-PER` are people."""
    precision: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """How sure a word must be part of a name, as measured on sentences that it was not trained on."""
    language: str | None = "en"
    """Of the sentences; in documents in another language no names are looked for. `null`: in all."""

    @model_validator(mode="after")
    def _one_of_two(self) -> NamesSettings:
        if (self.model is None) == (self.rows is None):
            raise ValueError("name either `model`, a trained one, or `rows`, labelled sentences to learn from")
        return self


class CorpusSettings(StageSettings):
    """Raw sources -> clean, deduplicated, mixed documents, with a reason and a count for every dropped document."""

    stage: Literal["corpus"] = "corpus"
    sources: dict[str, Source]
    """Where text comes from, by name. Earlier sources win where two hold the same text."""
    languages: tuple[str, ...] = ()
    """Keep these languages (ISO 639-1 codes, as `en`). Empty: all. Code is not looked at."""
    min_language_score: Share = 0.5
    """How sure the detector must be, on average over a document: what else is in it takes this down (FineWeb: 0.65)."""
    extract: Literal["fast", "cascade", "best"] = "cascade"
    """How main text is taken out of HTML: `fast` (Resiliparse), `best` (Trafilatura), or `cascade` (fast decides on the
    language, best extracts what is kept)."""
    quality: QualityRules | None = QualityRules()
    """Thresholds of the quality rules. `null`: no rules."""
    classifier: ClassifierSettings | None = None
    """A trained quality classifier, as one more signal. `null`: none."""
    perplexity: PerplexitySettings | None = None
    """An n-gram model of reference text, as one more signal. `null`: none."""
    toxicity: ToxicitySettings | None = None
    """Drop what a trained model finds toxic, by category. `null`: it is not looked at."""
    exact_duplicates: bool = True
    """Drop documents whose normalised text was seen before."""
    duplicate_urls: bool = False
    """Of pages with the same address (but for session ids and the like) keep the first. Parts of a book, and of a text
    file, have the address of the whole: they are not asked."""
    duplicate_paragraphs: bool = False
    """Cut paragraphs of at least 100 characters that were seen before, in any document."""
    duplicate_spans: Annotated[int, Field(ge=10, le=1000)] | None = None
    """Cut runs of at least this many words (50 is usual) that stand earlier in any document. `null`: keep them."""
    near_duplicate_threshold: Annotated[float, Field(ge=0.3, le=1)] | None = 0.8
    """Drop documents whose word 5-grams overlap this much (Jaccard) with a kept one. `null`: keep them."""
    semantic_threshold: Annotated[float, Field(ge=0.5, le=1)] | None = None
    """Drop documents whose vectors have this cosine with a kept one's; 0.8 finds copies with a fifth of the words
    changed. `null`: keep them."""
    semantic_embedding: str | None = None
    """`package.module:function`, from a list of texts to an array of vectors: a model of yours instead of TF-IDF."""
    decontaminate: tuple[ExamFiles | ExamTasks, ...] = ()
    """Exams whose items must not stand in the corpus."""
    decontamination_ngram: Annotated[int, Field(ge=5, le=50)] = 13
    """A document that shares this many words in a row with an exam item (or a shorter item whole) is contaminated."""
    decontamination_coverage: Share = 0.0
    """Share of an item's words that such runs must cover: 0 asks for one run (GPT-3); Tulu 3 has 8 words and 0.5."""
    decontamination_rephrased: Annotated[float, Field(gt=0, lt=1)] | None = 0.8
    """Items that a document tells again in other words count from this probability on. `null`: not looked for."""
    pii: tuple[PiiType, ...] = PII_TYPES
    """Personal data to replace by placeholders such as <EMAIL>. Also `secret` (keys, passwords), `address` (by rule,
    which finds about half of them) and `name` (see `pii_names`)."""
    pii_names: NamesSettings | None = None
    """What the type `name` is found by: a small trained tagger, which finds about half of the names."""
    pii_private_ips: bool = False
    """With the type `ip`: replace addresses of private networks too (10.0.0.1, 192.168.1.1), the same in every home."""
    pii_audit_share: Share = 0.0
    """Of this share of the documents keep what was replaced, to check it by, in private/pii-audit.jsonl: it holds
    personal data, is readable by you only and never part of the corpus."""
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weights in training, of sources or of their `group`s; where sources are `by_language`, of languages (`en`) and
    `other`. Empty: as many bytes as each has (see the temperature)."""
    min_language_part: Share = 0.001
    """Of sources that are `by_language`: languages with a smaller share of their bytes form the part `other` together,
    unless `mixture` or `languages` names them. 0: each has a part."""
    mixture_temperature: Annotated[float, Field(ge=1)] = 1.0
    """Without weights: groups of n bytes weigh n^(1/temperature). 1: by size; mT5 has 3.3; large: all alike."""
    mixture_tokens: PositiveInt | None = None
    """Tokens of one pass, at 4 bytes each; decides how often sources are repeated. Without it: as many as there are."""
    mixture_bytes: PositiveInt | None = None
    """The same in bytes."""
    max_repetition: PositiveFloat = 4.0
    """How often a small source may be repeated at most to reach its weight."""
    held_out: HeldOut | None = HeldOut()
    """Documents kept apart to measure on. `null`: none."""
    max_technical_share: Share = 0.02
    """Stop when more of a shard than this is lost for one technical reason: crashes, time-outs, a broken package."""
    document_seconds: PositiveFloat = 60.0
    """Longest CPU time that finding one document's text may take, its language, or its signals, each."""
    shard_bytes: Annotated[int, Field(ge=10_000)] = 32_000_000
    """Raw text in one shard: what is done again after a kill, and what a worker's memory depends on."""
    engine: Annotated[Literal["local", "ray", "dask", "slurm"], Presentation()] = "local"
    """Who runs the shards: processes here, a Ray or Dask cluster, or Slurm arrays. The result does not depend on it."""
    address: Annotated[str | None, Presentation()] = None
    """Of the Ray or Dask cluster (`auto`: the running one; none: one is started); for Slurm, options of `sbatch`."""
    workers: Annotated[NonNegativeInt | None, Presentation()] = None
    """Shards worked on at a time. Without it: one per core. 0: in this very process, for debuggers."""
    keep_work: Annotated[bool, Presentation()] = True
    """Keep what every step left, so that a changed setting repeats its step and those below only."""

    @model_validator(mode="after")
    def _names_fit(self) -> CorpusSettings:
        found: list[tuple[tuple[str, ...], str]] = []
        if "name" in self.pii and self.pii_names is None:
            what = "pii: `name` needs a trained tagger: add `pii_names: {rows: FILE}` with labelled sentences, or "
            found.append((("pii",), f"{what}`pii_names: {{model: FOLDER}}`"))
        if self.pii_names is not None and "name" not in self.pii:
            found.append((("pii_names",), "pii_names has nothing to do: add `name` to `pii`"))
        if not self.sources:
            found.append((("sources",), "name at least one source"))
        for name in self.sources:
            if not re.fullmatch(r"[A-Za-z0-9_]+(?:[-.][A-Za-z0-9_]+)*", name):
                what = f"source name {name!r}: use letters, digits, '_', '-' and '.', as it names files"
                found.append((("sources", name), what))
        found += [(("languages",), what) for what in language_mistakes(self.languages, self.sources)]
        if self.duplicate_spans and self.duplicate_paragraphs:
            what = "duplicate_spans cuts repeated paragraphs too: leave out duplicate_paragraphs"
            found.append((("duplicate_spans",), what))
        try:
            check_weights(self.mixture, self.sources, self.languages)
        except ValueError as error:
            found.append((("sources",) if str(error).startswith("source") else ("mixture",), str(error)))
        if self.mixture and self.mixture_temperature != 1:
            what = "mixture_temperature evens out sizes, mixture gives weights: use one of the two"
            found.append((("mixture_temperature",), what))
        if self.mixture_tokens and self.mixture_bytes:
            what = "mixture_tokens and mixture_bytes say the same in two units: use one of the two"
            found.append((("mixture_tokens",), what))
        if found:
            raise MistakesError(found)
        return self
