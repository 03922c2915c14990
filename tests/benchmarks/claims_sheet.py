"""A sheet for a model card: prompts spread evenly over a list, nothing picked, each drawn by several models.

    python tests/benchmarks/claims_sheet.py LIST.csv --count 12 --column real=DIR --column "teacher, 25 steps=DIR" \
        --column "student, 2 steps=DIR" --out edgefusion/zoo/styles/taught.jpg

A folder holds PNGs named as the list's file_name: `lists/real/…` of a preset, `pictures` of `edgefusion evaluate
model`, what tests/benchmarks/zoo_quantised.py keeps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from edgefusion.data.sheets import Cell, write_sheet
from edgefusion.evaluate.prompts import read_prompts

PROMPTS_A_ROW = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--column", action="append", default=[], metavar="NAME=DIR", required=True)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--limit", type=int, help="of the first so many prompts, as the models were judged on")
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    prompts = read_prompts(words.prompts, words.limit)
    columns = [(name, Path(folder)) for name, _, folder in (column.rpartition("=") for column in words.column)]
    chosen = [number * len(prompts) // words.count for number in range(words.count)]
    cells = [
        Cell(Image.open(folder / f"{prompts.stems[row]}.png").convert("RGB"), (name, prompts.texts[row]))
        for row in chosen
        for name, folder in columns
    ]
    write_sheet(words.out, cells, PROMPTS_A_ROW * len(columns))
    print(f"{words.out}: {len(chosen)} prompts, {len(columns)} columns, {words.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
