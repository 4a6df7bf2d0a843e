"""Maps of features whose points show their images, and how far apart the sets lie."""

from pathlib import Path

from aras.report.colors import colors_of_sets
from aras.report.page import Part, Scatter, Table
from aras.report.places import Places
from aras.report.reading import dig, listed, number_of, plain_text
from aras.report.sampling import Draw, is_file_name
from aras.report.thumbnails import Thumbnails

METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
COLUMNS = ("set", "filename", "x", "y")
MOST_SETS = 12

Point = tuple[str, str, float, float]  # set, file name, x, y


def feature_parts(places: Places, thumbnails: Thumbnails, count: int, most: int, seed: int) -> list[Part]:
    """Return the maps with at most `count` points, thumbnails of at most `most` pixels a side, and the silhouettes.

    A draw depends on sets and file names alone, so both maps have the same points and share their thumbnails.
    """
    reader = thumbnails.reader
    scores = reader.json(places.feature_maps / "silhouette.json")
    folders = folders_of_sets(scores, places)
    parts: list[Part] = []
    for method, title in METHODS.items():
        draw: Draw[Point] = Draw(count, seed)
        path = places.feature_maps / f"{method}.csv"
        for name, filename, *place in reader.rows(path, COLUMNS):
            x, y = map(number_of, place)
            if x is None or y is None or not is_file_name(filename):
                reader.note(f"{path} has a row that is no point of a file, {filename!r}; it is left out")
                continue
            draw.add(f"{name}/{filename}", (name, filename, x, y))
        if draw.count:
            parts.append(scatter_of(title, draw, folders, thumbnails, most))
    table = table_of_silhouettes(scores)
    return [*parts, table] if table else parts


def folders_of_sets(scores: dict[str, object], places: Places) -> dict[str, Path]:
    """Return the folder of each set's images, as silhouette.json tells, or where the dataset now is."""
    found = {}
    for told in listed(scores.get("sets")):
        name, folder = dig(told, "name"), dig(told, "folder")
        if isinstance(name, str) and isinstance(folder, str):
            moved = places.data.joinpath(*Path(folder).parts[-2:])
            found[name] = moved if moved.is_dir() and not Path(folder).is_dir() else Path(folder)
    return found


def scatter_of(title: str, draw: Draw[Point], folders: dict[str, Path], thumbnails: Thumbnails, most: int) -> Scatter:
    """Return the map of the points drawn."""
    points = list(draw.items().values())
    order = [*folders, *sorted({point[0] for point in points} - folders.keys())]
    sets = [name for name in order if any(point[0] == name for point in points)][:MOST_SETS]
    points = [point for point in points if point[0] in sets]
    shown = [point for point in points if point[0] in folders]
    paths = [folders[name] / filename for name, filename, _, _ in shown]
    sprites = dict(zip(shown, thumbnails.images(paths, most), strict=True))
    note = f"{len(points):,} of {draw.count:,} images." if len(points) < draw.count else f"{draw.count:,} images."
    return Scatter(
        f"{title} of the encoder's features",
        [plain_text(name, 60) for name in sets],
        colors_of_sets(sets),
        [point[2] for point in points],
        [point[3] for point in points],
        [sets.index(point[0]) for point in points],
        [plain_text(point[1].removesuffix(".png"), 200) for point in points],
        [sprites.get(point) for point in points],
        note,
    )


def table_of_silhouettes(scores: dict[str, object]) -> Table | None:
    """Return the silhouettes of all sets and of each two, None when there are none."""
    rows = []
    for label, values in [
        ("all sets", scores.get("overall")),
        *((" and ".join(plain_text(n, 60) for n in listed(dig(p, "sets"))), p) for p in listed(scores.get("pairs"))),
    ]:
        value, error = number_of(dig(values, "silhouette")), number_of(dig(values, "standard_error"))
        if value is not None:
            rows.append([label, f"{value:.4f}", "" if error is None else f"{error:.4f}"])
    if not rows:
        return None
    notes = ["Of the features themselves, not of the maps: 1 is apart, 0 mixed, below 0 nearer to the other set."]
    return Table("Silhouettes", ["sets", "silhouette", "standard error"], rows, [["", "", ""] for _ in rows], notes)
