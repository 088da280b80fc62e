"""Cells under each other: as plain text for a terminal, and as a table in Markdown."""

from collections.abc import Iterable, Sequence

_RULES = {"<": "---", ">": "---:"}


def text_table(
    rows: Iterable[Sequence[str]],
    align: str = "<",
    *,
    least: Sequence[int] = (),
    indent: int = 0,
    gap: int = 2,
) -> list[str]:
    """A line per row, its columns as wide as their longest cell, without trailing spaces.

    >>> text_table([("method", "top-1"), ("visonly", "0.5")], "<>", indent=2)
    ['  method   top-1', '  visonly    0.5']

    align: '<' or '>' per column; the last one is also that of all further columns.
    least: the columns' smallest widths, for tables that are printed piece by piece.
    gap: spaces between two columns.

    Rows may be shorter than others.
    """
    rows = list(rows)
    num_columns = max((len(row) for row in rows), default=0)
    align = align.ljust(num_columns, align[-1])
    widths = [*least, *[0] * num_columns][:num_columns]
    for row in rows:
        for column, cell in enumerate(row):
            widths[column] = max(widths[column], len(cell))
    lines = []
    for row in rows:
        columns = zip(row, align, widths, strict=False)
        cells = [f"{cell:{side}{width}}" for cell, side, width in columns]
        lines.append((" " * indent + (" " * gap).join(cells)).rstrip())
    return lines


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "<"
) -> list[str]:
    """The lines of a table in Markdown; a bar in a cell becomes a slash, lest it end the cell.

    >>> markdown_table(("class", "gain"), [("cut|chop", "+1.0")], "<>")
    ['| class | gain |', '| --- | ---: |', '| cut/chop | +1.0 |']

    align: as for text_table.
    """
    rules = [_RULES[side] for side in align.ljust(len(head), align[-1])]
    return [
        f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
        for cells in (head, rules, *rows)
    ]
