"""`segtrain data check`: what is in the files, and everything that is wrong with them."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from segtrain.cli.common import USAGE
from segtrain.cli.data import SHOWN
from segtrain.cli.data.common import SPLITS, Missing, component, lenient, missing_files, opened, sizes, survey, workers
from segtrain.cli.tables import percent, table
from segtrain.data.check import only_the_first_class
from segtrain.data.dataset import Dataset
from segtrain.data.paths import some
from segtrain.data.survey import UNKNOWN, Copies, Raw, Survey, copies
from segtrain.errors import UserError

LISTED = 20  # files that are printed of one kind of trouble
MISSING = "missing: "
ROWS = 40  # of a table of values; longer ones leave out what does not occur anyway


class Checked(NamedTuple):
    """One split: what it is, what was seen of it, and what is wrong or worth knowing."""

    dataset: Dataset | None
    survey: Survey | None
    missing: list[Missing]
    problems: list[str]
    notes: list[str]


def run(args: argparse.Namespace) -> int:
    """The whole check; returns the exit code."""
    began = time.monotonic()
    config, _, maker = opened(args.config, args)
    splits = dict[str, Checked]()
    for split in SPLITS:
        splits[split] = _checked(maker, component(config, split), split, args)
    same = copies({split: one.survey for split, one in splits.items() if one.survey is not None})
    _compare(splits, same)
    if args.json:
        print(json.dumps(_as_json(splits, same), indent=1))
    else:
        for split, one in splits.items():
            print("\n".join(_told(split, one)), end="\n\n")
        print("\n".join(_verdict(splits, time.monotonic() - began)))
    return USAGE if any(one.problems for one in splits.values()) else 0


def _checked(maker: Any, wanted: Any, split: str, args: argparse.Namespace) -> Checked:
    problems, notes = list[str](), list[str]()
    missing = missing_files(maker, wanted)
    for lack in missing:
        if lack.skipped:
            notes.append(f"{_lacking(lack)} and {'is' if len(lack.each) == 1 else 'are'} left out (missing: skip)")
        else:
            problems += [f"{MISSING}{each}" for each in lack.each]
            notes.append(f"{_lacking(lack)}; get what lacks, or leave it out with data.{split}.missing: skip")
    try:
        dataset: Dataset = maker.make(lenient(wanted))
    except UserError as error:
        return Checked(None, None, missing, [*problems, *error.messages], notes)
    seen = survey(dataset, split, None if args.all else SHOWN, workers(args))
    problems += [message for failure in seen.failures for message in failure.errors]
    if problem := only_the_first_class(dataset, set(_trained_ids(seen)), seen.usable):
        problems.append(problem)
    notes += _notes(dataset, seen)
    return Checked(dataset, seen, missing, problems, notes)


def _lacking(lack: Missing) -> str:
    return f"{len(lack.each):,} of {lack.total:,} samples lack{'s' * (len(lack.each) == 1)} a file"


def _trained_ids(seen: Survey) -> Iterable[int]:
    yield from (train for train, pixels in enumerate(seen.pixels.tolist()) if pixels)
    if seen.ignored:
        yield 255


def _notes(dataset: Dataset, seen: Survey) -> list[str]:
    """What is no mistake by itself, but good to know."""
    notes = []
    absent = [name for name, count in zip(seen.names, seen.images_with, strict=True) if not count]
    if absent and seen.usable:
        notes.append(f"{len(seen.names) - len(absent)} of {len(seen.names)} classes occur; absent: {some(absent, 8)}")
    if seen.unlabelled:
        notes.append(f"ignored as a whole, so that nothing is learnt from it: {some(seen.unlabelled)}")
    if seen.boxes_off:
        notes.append(
            f"the boxes of {len(seen.boxes_off):,} of {seen.usable:,} samples reach out of their images, which seem to "
            f"be cropped or resized already: leave crop at null. They are {some(seen.boxes_off)}"
        )
    return notes


def _compare(splits: Mapping[str, Checked], same: list[Copies]) -> None:
    """Add what only shows when the splits are seen together; it is noted with the last of them."""
    last = splits[SPLITS[-1]]
    known = [one.dataset.labels.names for one in splits.values() if one.dataset is not None]
    if len(set(known)) > 1:
        last.problems.append("train and val have different classes; both need the same, in the same order")
    across = [copy for copy in same if copy.across]
    if len(across) > LISTED:
        shown = some([" = ".join(name for _, name in copy.samples) for copy in across], 3)
        last.problems.append(
            f"{len(across):,} images are in several splits, so that scores say nothing about new ones: {shown}; divide "
            "them: segtrain data split C --of train"
        )
    for copy in across if len(across) <= LISTED else ():
        named = " = ".join(f"{split}: {name}" for split, name in copy.samples)
        labels = ", with different labels" if copy.differing else ""
        last.problems.append(f"one image in several splits{labels}: {named}; keep it in one of them")
    for split, one in splits.items():
        within = [copy for copy in same if not copy.across and copy.samples[0][0] == split]
        if within:
            differing = sum(copy.differing for copy in within)
            named = some([" = ".join(name for _, name in copy.samples) for copy in within], 3)
            wrong = f", {differing} with different labels" * bool(differing)
            one.notes.append(f"{len(within):,} images occur more than once{wrong}: {named}")


def _told(split: str, one: Checked) -> list[str]:
    lines = list[str]()
    if one.survey is not None and one.dataset is not None:
        seen = one.survey
        how_many = "all read" if seen.read == seen.listed else f"{seen.read:,} read (--all reads every one)"
        unreadable = f", {len(seen.failures):,} not usable" if seen.failures else ""
        lines.append(f"{split:7}{seen.listed:,} samples, {how_many}{unreadable}")
        forms = [f"images {_most(seen.images)}"] if any(seen.images) else ["images generated"]
        forms.append(f"sizes {sizes(seen)}")
        forms += [f"labels {_most(seen.labels)}"] if any(seen.labels) else []
        lines += ["       " + form for form in forms]
        lines += ["       " + row for row in _values(one.dataset, seen)]
    else:
        lines.append(f"{split:7}cannot be read")
    return lines + [f"note   {note}" for note in one.notes]


def _most(counts: Counter[str], limit: int = 5) -> str:
    """The most frequent with their numbers, "JPEG RGB (367), PNG RGB (2)"."""
    if len(counts) == 1:
        return f"all {next(iter(counts))}"
    named = [f"{name or 'no file'} ({count:,})" for name, count in counts.most_common(limit)]
    return ", ".join(named) + (f", … ({len(counts)} different)" if len(counts) > limit else "")


def _values(dataset: Dataset, seen: Survey) -> list[str]:
    """A table of what is in the label files, or, where nothing is known of files, of the classes."""
    if dataset.kind == "classification":
        rows = [["class", "", "images", "share"]]
        present = [i for i, n in enumerate(seen.pixels.tolist()) if n or len(seen.names) <= ROWS]
        for i in present:
            rows.append([str(i), seen.names[i], f"{seen.pixels[i]:,}", percent(seen.pixels[i], seen.usable)])
        return table(rows, "><>>")
    whole = int(seen.pixels.sum()) + seen.ignored
    rows = [["value", "class", "pixels", "of all", "in images"]]
    if not seen.raw:
        for i, name in enumerate(seen.names):
            rows.append(_row("", name, int(seen.pixels[i]), whole, f"{seen.images_with[i]:,}"))
        rows.append(_row("", "(ignored)", seen.ignored, whole, ""))
        return table(rows, "><>>>")
    whole = sum(seen.raw.values())
    strange = Counter({raw: count for (raw, train), count in seen.raw.items() if train == UNKNOWN})
    unshown = set(strange) - {raw for raw, _ in strange.most_common(ROWS)}
    held = {train for _, train in seen.raw}
    for (raw, train), count in sorted(seen.raw.items(), key=lambda item: (str(type(item[0][0])), item[0])):
        if train == UNKNOWN and raw in unshown:
            continue
        images = f"{seen.images_with[train]:,}" if 0 <= train < len(seen.names) else ""
        rows.append(_row(_raw(raw), _meaning(dataset, raw, train), count, whole, images))
    if unshown:
        rows.append(_row("…", f"? ({len(unshown):,} other values)", sum(strange[raw] for raw in unshown), whole, ""))
    for i, name in enumerate(seen.names if len(seen.names) <= ROWS else ()):
        if i not in held:
            rows.append(_row("", name, 0, whole, "0"))
    return table(rows, "><>>>")


def _row(raw: str, name: str, count: int, whole: int, images: str) -> list[str]:
    return [raw, name, f"{count:,}", percent(count, whole), images]


def _raw(raw: Raw) -> str:
    return str(raw) if isinstance(raw, int) else str(list(raw))


def _meaning(dataset: Dataset, raw: Raw, train: int) -> str:
    """The class, or that a value which is one is ignored nevertheless, because of its place."""
    spec = dataset.labels
    usual = spec.table.get(raw) if isinstance(raw, int) else spec.colors.get(raw)
    if train == spec.ignore_index and usual is not None and usual < len(spec.names):
        return f"({spec.names[usual]}, ignored by its place)"
    return _name(dataset, train)


def _name(dataset: Dataset, train: int) -> str:
    if train == UNKNOWN:
        return "? (in files that are not usable)"
    return dataset.labels.names[train] if train < len(dataset.labels.names) else "(ignored)"


def _verdict(splits: Mapping[str, Checked], seconds: float) -> list[str]:
    problems = [(split, problem) for split, one in splits.items() for problem in one.problems]
    read = sum(one.survey.read for one in splits.values() if one.survey is not None)
    lines = list[str]()
    for split, one in splits.items():
        missing = [problem for problem in one.problems if problem.startswith(MISSING)]
        unusable = sum(len(failure.errors) for failure in one.survey.failures) if one.survey is not None else 0
        rest = one.problems[len(missing) :]  # missing files come first, then those that are not usable
        told = [*_first(missing, f"{MISSING}{{}} more"), *_first(rest[:unusable], "{} more files"), *rest[unusable:]]
        lines += [f"wrong  {split}: {problem}" for problem in told]
    found = f"{len(problems):,} problems" if len(problems) > 1 else "1 problem" if problems else "no problem found"
    return [*lines, f"{'bad' if problems else 'ok':7}{found} in {read:,} samples, {seconds:.1f} s"]


def _first(problems: list[str], more: str) -> list[str]:
    unshown = len(problems) - LISTED
    return problems if unshown <= 0 else [*problems[:LISTED], f"{more.format(f'{unshown:,}')} (--json lists all)"]


def _as_json(splits: Mapping[str, Checked], same: list[Copies]) -> dict[str, Any]:
    return {
        "ok": not any(one.problems for one in splits.values()),
        "splits": {split: _split_as_json(one) for split, one in splits.items()},
        "copies": [copy._asdict() for copy in same],
    }


def _split_as_json(one: Checked) -> dict[str, Any]:
    told: dict[str, Any] = {
        "problems": one.problems,
        "notes": one.notes,
        "missing": [each for lack in one.missing for each in lack.each],
    }
    if one.survey is None or one.dataset is None:
        return told
    seen = one.survey
    return told | {
        "samples": seen.listed,
        "read": seen.read,
        "unusable": [{"id": failure.id, "errors": failure.errors} for failure in seen.failures],
        "images": dict(seen.images),
        "labels": dict(seen.labels),
        "sizes": {f"{width}x{height}": count for (width, height), count in seen.sizes.items()},
        "values": [
            {"value": raw, "class": None if train == UNKNOWN else _name(one.dataset, train), "pixels": count}
            for (raw, train), count in sorted(seen.raw.items(), key=lambda item: str(item[0]))
        ],
        "classes": [
            {"class": name, "pixels": pixels, "images": images}
            for name, pixels, images in zip(seen.names, seen.pixels.tolist(), seen.images_with.tolist(), strict=True)
        ],
        "ignored": seen.ignored,
    }
