"""Reads a CSV strictly: every row as it is in the file, or an error that names the lines of damaged rows.

Otherwise, a quote that is not closed or not doubled would join rows, and a comma in a value would shift
columns.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from data import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MOST = 3  # damaged rows that a message names, at most
RULE = (
    "a value with separators, quotes or line breaks is written in double quotes, each quote in it doubled "
    '("")'
)


@dataclass(frozen=True)
class Table:
    """The rows of a CSV: (line in the file, counted from 1; as many values as the header has names). There
    are none if the header does not fit.
    """

    separator: str
    header: list[str]
    rows: list[tuple[int, list[str]]]
    repeated: list[int]  # lines that repeat the header, and are not rows


def read(text: str, what: str, fits: Callable[[list[str]], bool]) -> Table:
    r"""Read a text that is not blank, with line ends \n. The separator is the first one with which the header
    `fits`. Raises DataError, whose message begins with `what`.
    """
    lines = list(io.StringIO(text))  # unlike splitlines, this splits only at \n
    begin = next(i for i, line in enumerate(lines) if line.strip())
    separators = "".join(SEPARATORS)
    if told := re.fullmatch(r'"?sep=([^"\n])"?\n', lines[begin], re.IGNORECASE):  # Excel writes it
        separators, begin = told[1], begin + 1
    limit = csv.field_size_limit(len(text) + 1)
    try:
        headers = {separator: _row(lines, begin, separator) for separator in separators}
        fitting = (separator for separator, (names, _, _) in headers.items() if fits(names))
        separator = next(fitting, max(headers, key=lambda key: len(headers[key][0])))
        header, at, fault = headers[separator]
        if fault:
            raise DataError(f"{what} is not a CSV: its header, line {begin + 1:,}, has {fault}")
        if not fits(header):
            return Table(separator, header, [], [])
        table, faults = _rows(lines, at, separator, header)
    finally:
        csv.field_size_limit(limit)
    if faults:
        some = "; ".join(f"line {line:,}: {fault}" for line, fault in faults[:MOST])
        more = " and more" if len(faults) > MOST else ""
        raise DataError(f"{what} has damaged rows, so none is read ({some}{more}); {RULE}")
    return table


def name_of(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _row(lines: list[str], at: int, separator: str) -> tuple[list[str], int, str]:
    """The values of the row that begins with lines[at], the index after the row, and what
    is wrong with it.
    """
    rest = (lines[i] for i in range(at, len(lines)))
    reader = csv.reader(rest, delimiter=separator, strict=True)
    try:
        values = next(reader, [])
    except csv.Error as error:
        end = at + reader.line_num
        if "unexpected end" in str(error):
            fault = "a quote that is never closed"
        else:
            where = f"in line {end:,} " if end > at + 1 else ""
            fault = f"a quote that is closed {where}and followed by text"
        return [], end, fault + _backslash(lines[at])
    end = at + reader.line_num
    # If a quote is missing, a file may still look like rows, but one row then has an odd number of quotes
    odd = sum(line.count('"') for line in lines[at:end]) % 2
    return values, end, f"a quote without a second one{_backslash(lines[at])}" if odd else ""


def _backslash(line: str) -> str:
    return r", where \" seems to stand for a doubled quote" if r"\"" in line else ""


def _rows(
    lines: list[str], at: int, separator: str, header: list[str]
) -> tuple[Table, list[tuple[int, str]]]:
    """The rows from lines[at] on, and (line, fault) of damaged ones. It stops when more than MOST are
    damaged.
    """
    table, faults = Table(separator, header, [], []), []
    names = [_plain(name) for name in header]
    numbers = None  # 1 if rows begin with their number, for which the header has no name; else 0
    while at < len(lines) and len(faults) <= MOST:
        begin = at
        values, at, fault = _row(lines, begin, separator)
        blank = at == begin + 1 and not lines[begin].strip() and len(values) < 2
        if blank and not fault:
            continue
        if not fault and [_plain(value) for value in values] == names:
            table.repeated.append(begin + 1)
            continue
        if numbers is None and not fault:
            numbers = int(len(values) == len(header) + 1 and values[0].strip().isdigit())
        wanted = len(header) + (numbers or 0)
        if not fault and len(values) != wanted:
            fault = f"{len(values)} {'value' if len(values) == 1 else 'values'} instead of {wanted}"
        if not fault and numbers and not values[0].strip().isdigit():
            fault = "no number at its start, as other rows have"
        if not fault:
            table.rows.append((begin + 1, values[numbers or 0 :]))
            continue
        faults.append((begin + 1, fault))
        if not values:  # the end of the row is unknown: continue with the next line that is a whole row
            whole = (i for i in range(begin + 1, len(lines)) if _is_row(lines[i], separator, wanted))
            at = next(whole, len(lines))
    return table, faults


def _is_row(line: str, separator: str, width: int) -> bool:
    values, _, fault = _row([line], 0, separator)
    return not fault and len(values) == width


def _plain(value: str) -> str:
    return value.strip("\ufeff \t").lower()
