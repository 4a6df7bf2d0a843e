"""The tables of what is not segmentation: fidelity of images, captions, and maps of features."""

from pathlib import Path
from typing import Any

from aras.errors import UserError
from aras.files import read_json
from aras.results.published import paper_stream, published, stream_of
from aras.results.table import NOT_RUN, Cell, Row, Table, cell_of

CAPTIONERS = {"text_captioner": "text", "vision_captioner": "vision", "vision_language_captioner": "hybrid"}
GROUNDING = {"f1": "classes, F1 %", "hallucination": "mentions of a class not there %"}


def digits(value: float) -> str:
    """Return `value` with four digits that count, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def with_interval(found: dict[str, Any]) -> str:
    """Return a value and its interval."""
    low, high = found.get("low"), found.get("high")
    return digits(found["value"]) + ("" if low is None or high is None else f" [{digits(low)}, {digits(high)}]")


# ------------------------------------------------------------------------------------------------------------ fidelity


def fidelity_table(path: Path | None, found: dict[str, Any] | None, suffix: str = "") -> Table:
    """Return the measures of each set of images, real ones first; of no file, the paper's FID alone.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: `found` is not what a fidelity.json holds.
    """
    paper = published()["fidelity"]
    title = "Fidelity of images"
    names = {"train": "real, train", "synth": "StyleGAN", "generated": "conditional GAN"}
    if found is None:
        row = Row("FID", [Cell("", paper[name], NOT_RUN) for name in names])
        said = ["Against the real test split; real training images are the floor."]
        return Table("fidelity", title, "measure", list(names.values()), [row], said)
    reference, floor, sets = found["reference"], found["floor"] or {}, found["sets"]
    columns = {f"{reference['name']} (reference)": reference} if reference.get("measures") else {}
    columns |= ({f"{floor['name']} (floor)": floor} if floor else {}) | sets
    stands_for = {f"{floor.get('name')} (floor)": "train", **{name: name for name in sets}}
    published_fid = {name: paper.get(stands_for.get(name, "")) for name in columns}
    differences = fidelity_differences(found)
    rows = []
    for key, measure in found["measures"].items():
        fids = published_fid if is_fid(key, found["spaces"]) else {}
        arrow = {"lower": " ↓", "higher": " ↑"}.get(measure.get("better"), "")
        cells = [
            fidelity_cell(one["measures"].get(key), fids.get(name), not differences) for name, one in columns.items()
        ]
        rows.append(Row(f"{heading_of(key, measure, found['spaces'])}{arrow}", cells))
    if not any(is_fid(key, found["spaces"]) for key in found["measures"]):
        rows.append(Row("FID ↓", [cell_of(None, fid) if fid else Cell() for fid in published_fid.values()]))
    said = [
        f"{found['equal_n']:,} images of each set against as many of {reference['name']}; [ ] is the 95 % interval."
    ]
    said += [f"{floor['name']} is real images, the floor."] if floor else []
    said.append("The paper does not say how many images its FID was taken over, and FID falls with their number.")
    said += [f"Not comparable with the paper: {'; '.join(differences)}."] if differences else []
    left = [f"{name}: no {key}, as {why}." for name, one in columns.items() for key, why in left_out(one).items()]
    return Table(f"fidelity{suffix}", f"{title}, {path}", "measure", list(columns), rows, said + left)


def is_fid(key: str, spaces: dict[str, Any]) -> bool:
    """Return whether the measure `key` is FID: the Fréchet distance in its own space, of images as they are."""
    kind, _, name = key.partition(".")
    space = spaces.get(name, {})
    return bool(
        kind == "frechet"
        and space.get("distance") == published()["fidelity"]["distance"]
        and space.get("symmetries", 1) == 1
    )


def fidelity_differences(found: dict[str, Any]) -> list[str]:
    """Return in what the images measured are not those of the paper."""
    images, reference = published()["fidelity"]["images"], found["reference"]
    differences = [] if reference["name"] == "test" else [f"reference {reference['name']}"]
    if found["equal_n"] != images:
        differences.append(f"{found['equal_n']:,} images")
    if (Path(reference["folder"]).parent.parent / "run.json").exists():  # which the published dataset does not have
        differences.append("splits of dataset_creator.py")
    return differences


def heading_of(key: str, measure: dict[str, Any], spaces: dict[str, Any]) -> str:
    """Return the name of a measure, with the space of its features."""
    space = key.partition(".")[2]
    heading = measure["heading"]
    if key.startswith("frechet.") and space in spaces:
        return f"{spaces[space]['distance']}{averaged(spaces[space])}"
    unit = f", {measure['unit']}" if measure.get("unit") else ""
    heading += unit + averaged(spaces.get(space, {}))
    return f"{heading} ({space})" if space and space not in heading else heading


def averaged(space: dict[str, Any]) -> str:
    """Return what is said of features that are means over the symmetries of a square."""
    count = space.get("symmetries", 1)
    return "" if count == 1 else f", mean of {count} symmetries"


def left_out(one: dict[str, Any]) -> dict[str, str]:
    """Return why a set lacks which measures."""
    return dict(one.get("left_out") or {})


def fidelity_cell(found: dict[str, Any] | None, paper: str | None, comparable: bool) -> Cell:
    """Return the cell of a measure, empty where it does not apply."""
    return Cell() if found is None else cell_of(with_interval(found), paper, comparable or paper is None)


# ------------------------------------------------------------------------------------------------------------ captions


def captions_table(path: Path | None, found: dict[str, Any] | None, suffix: str = "") -> Table:
    """Return redundancy, CLIPScore and what captions claim, the paper's streams first.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: `found` is no caption_metrics.json's.
    """
    paper = published()["captions"]
    streams = found["streams"] if found else {}
    matched = {name: of_the_paper(name, (found or {}).get("sources", {}).get(name, [])) for name in streams}
    rows = []
    for one in paper["streams"]:
        ours = [name for name, stream in matched.items() if stream is one]
        rows += [caption_row(f"{one['name']}{note_of(name, ours)}", streams[name], one, paper) for name in ours]
        if not ours:
            rows.append(caption_row(one["name"], None, one, paper))
    rows += [caption_row(name, streams[name], {}, paper) for name, stream in matched.items() if stream is None]
    all_five = all(one in matched.values() for one in paper["streams"]) and None not in matched.values()
    redundancy = f"{100 * found['all']['redundancy']:.2f}" if found and all_five else None
    whole = all_five and all(is_whole(one, paper) for one in streams.values())
    every = [Cell(), cell_of(redundancy, paper["all"]["redundancy"], whole), Cell("", f"{paper['all']['clip']:.2f}")]
    rows.append(Row("all five", every + [Cell() for _ in GROUNDING]))
    mean_clip = sum(one["clip"] for one in paper["streams"]) / len(paper["streams"])
    human = "; ".join(f"{name} {a:.2f} and {b:.2f}" for name, (a, b) in paper["human"].items())
    said = [
        f"Redundancy is of {paper['images']:,} captions of a stream in the paper, and grows with their number: other"
        " numbers do not compare. † says where they differ.",
        f"The paper's CLIPScore of all five is not the mean of theirs, {mean_clip:.2f}: none of ours stands beside it.",
        f"Captions by people, redundancy and CLIPScore (the paper): {human}.",
        "What captions claim is not in the paper.",
    ]
    columns = ["captions", "exact redundancy %", "CLIPScore", *GROUNDING.values()]
    return Table(f"captions{suffix}", f"Captions{f', {path}' if path else ''}", "stream", columns, rows, said)


def note_of(name: str, ours: list[str]) -> str:
    """Return what tells a stream from others that stand for the same one of the paper's."""
    return f" ({name})" if len(ours) > 1 else ""


def is_whole(one: dict[str, Any], paper: dict[str, Any]) -> bool:
    """Return whether a stream has as many captions as the paper's."""
    return bool(one["texts"]["captions"] == paper["images"])


def caption_row(label: str, found: dict[str, Any] | None, published_row: dict[str, Any], paper: dict[str, Any]) -> Row:
    """Return the row of a stream; None is one that was not run."""
    redundancy, clip = published_row.get("redundancy"), published_row.get("clip")
    if found is None:
        cells = [Cell(), cell_of(None, redundancy), cell_of(None, clip)]
        return Row(label, cells + [Cell() for _ in GROUNDING])
    whole = is_whole(found, paper) or redundancy is None
    score = f"{found['clip']['value']:.2f}" if found.get("clip") else None
    claims = found["grounding"]
    return Row(
        label,
        [
            Cell(f"{found['texts']['captions']:,}", "", "done"),
            cell_of(f"{100 * found['texts']['redundancy']:.2f}", redundancy, whole),
            Cell("", "", NOT_RUN) if score is None and clip is None else cell_of(score, clip, whole),
            *(claim_cell(claims.get(name)) for name in GROUNDING),
        ],
    )


def claim_cell(found: dict[str, Any] | None) -> Cell:
    """Return the cell of a share, empty where there was nothing to take it of."""
    known = found is not None and found.get("value") is not None
    if not found or not known:
        return Cell()
    ends = found.get("interval")
    return cell_of(f"{100 * found['value']:.1f}" + (f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""))


def of_the_paper(name: str, sources: list[str]) -> dict[str, Any] | None:
    """Return the paper's stream that the stream `name` is one of, None if it is of none.

    The run.json beside its CSVs tells script and model; only where there is none does the name.
    """
    for source in sources:
        record = Path(f"{source}.run.json")
        if record.exists():
            try:
                run = read_json(record)
                return stream_of(CAPTIONERS.get(Path(run["command"][0]).stem), str(run["options"]["model"]))
            except (UserError, KeyError, TypeError, IndexError):
                continue
    return paper_stream(name)


# ---------------------------------------------------------------------------------------------------------------- maps


def silhouette_table(path: Path | None, found: dict[str, Any] | None, suffix: str = "") -> Table:
    """Return how far sets of images are apart in the encoder's features; the paper has figures alone.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: `found` is not what a silhouette.json holds.
    """
    title = f"Silhouettes of sets in the segmenter's encoder{f', {path}' if path else ''}"
    rows = [Row("all sets", [Cell("", "", NOT_RUN)])]
    if found is not None:
        told = {"all sets": found["overall"]} | {" – ".join(one["sets"]): one for one in found["pairs"]}
        rows = [Row(name, [cell_of(silhouette(one))]) for name, one in told.items()]
    said = ["0 is no difference, 1 apart; ± is the standard error over spatial blocks. The paper has maps, no numbers."]
    return Table(f"silhouettes{suffix}", title, "sets", ["silhouette"], rows, said)


def silhouette(one: dict[str, Any]) -> str:
    """Return a silhouette with its standard error."""
    error = one.get("standard_error")
    return f"{one['silhouette']:.3f}" + ("" if error is None else f" ± {error:.3f}")
