"""Rows per second from csv to triplets: `helpers.data.triplets basic` beside the row loop that most scripts have.

    python benchmarks/triplets.py                          # 1,000,000 rows for us, 20,000 for the loops
    python benchmarks/triplets.py --rows 100000 --loop_rows 1000

Everybody reads a csv and writes the same two csv files: `text`, and `anchor, positive, negative` with one line for each
row and positive column. The loops are plain pandas:

* `loop`: iterrows, a filter on the category, sample, as people write it: unseeded, a negative may be a positive.
* `loop over lists`: iterrows, with the texts of each category in a list made beforehand: the better script.
* `careful loop` (with --careful, slow): the first one with the promises that ours keeps: seeded, no negative that is
  the anchor or any of its positives by value (over all rows with that anchor), none twice in a row.

Every contender runs in a process of its own; time is from its start to its end, peak memory the largest resident set.
A process starts with the peak of the one that starts it, so tables are made and looked at in processes of their own too.
The table is made of sample_data/products: rows drawn by a seed and numbered, so that most texts are distinct.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import polars as pl

from helpers.course.files import REPOSITORY, atomic_write, sample_data
from helpers.course.machine import detect_machine

ANCHOR, CATEGORY, POSITIVES = "description", "category", ["name", "features", "target", "question"]
SEED = 13


def make_table(path: Path, rows: int) -> None:
    """``rows`` products, each a sample product with its number in name, description, features and question."""
    products = pl.read_csv(sample_data("products", "products.csv"), infer_schema=False)
    table = products.sample(rows, with_replacement=True, seed=SEED).with_row_index("number", offset=1)
    numbered = ["product_id", "description", "name", "features", "question"]
    table.with_columns(pl.concat_str(pl.col(name), pl.lit(" "), pl.col("number")) for name in numbered).drop(
        "number"
    ).write_csv(path)


def loop(table: pd.DataFrame) -> tuple[list[str], list[dict[str, str]]]:
    """The loop as people write it."""
    texts, triplets = [], []
    for _, row in table.iterrows():
        texts.append(", ".join(f"{column}: {row[column]}" for column in table.columns))
        for column in POSITIVES:
            other = table[table[CATEGORY] == row[CATEGORY]].sample(1).iloc[0]
            triplets.append({"anchor": row[ANCHOR], "positive": row[column], "negative": other[column]})
    return texts, triplets


def loop_over_lists(table: pd.DataFrame) -> tuple[list[str], list[dict[str, str]]]:
    """The loop with a list for each category and column, and no negative equal to the positive or the anchor."""
    lists = {column: table.groupby(CATEGORY)[column].apply(list).to_dict() for column in POSITIVES}
    texts, triplets = [], []
    for _, row in table.iterrows():
        texts.append(", ".join(f"{column}: {row[column]}" for column in table.columns))
        for column in POSITIVES:
            left = [text for text in lists[column][row[CATEGORY]] if text not in (row[column], row[ANCHOR])]
            if left:
                triplets.append({"anchor": row[ANCHOR], "positive": row[column], "negative": random.choice(left)})
    return texts, triplets


def careful_loop(table: pd.DataFrame) -> tuple[list[str], list[dict[str, str]]]:
    """The loop with every promise of ours."""
    draw = random.Random(SEED)
    texts, triplets = [], []
    for _, row in table.iterrows():
        texts.append(", ".join(f"{column}: {row[column]}" for column in table.columns))
        twins = table[table[ANCHOR] == row[ANCHOR]]
        taken = {row[ANCHOR], *twins[POSITIVES].to_numpy().ravel()}
        for column in POSITIVES:
            same = table[table[CATEGORY] == row[CATEGORY]]
            left = same[~same[column].isin(taken)]
            if left.empty:
                continue
            other = left.sample(1, random_state=draw.randrange(2**32)).iloc[0]
            taken.add(other[column])
            triplets.append({"anchor": row[ANCHOR], "positive": row[column], "negative": other[column]})
    return texts, triplets


LOOPS = {"loop": loop, "loop over lists": loop_over_lists, "careful loop": careful_loop}


def run_loop(name: str, data: Path, folder: Path) -> None:
    """What the process of one loop does: csv in, two csv files out."""
    table = pd.read_csv(data, dtype=str).fillna("")
    texts, triplets = LOOPS[name](table)
    pd.DataFrame({"text": texts}).to_csv(folder / "texts.csv", index=False)
    pd.DataFrame(triplets).to_csv(folder / "triplets.csv", index=False)


def command(name: str, data: Path, folder: Path) -> list[str]:
    """The process of one contender."""
    if name != "ours":
        return [sys.executable, __file__, "--contender", name, "--data", str(data), "--folder", str(folder)]
    told = ["--data_path", data, "--desc_col", ANCHOR, "--category_col", CATEGORY, "--positive_cols", *POSITIVES]
    told += ["--output_unsupervised", folder / "texts.csv", "--output_supervised", folder / "triplets.csv"]
    return [sys.executable, "-m", "helpers.data.triplets", "basic", *map(str, told), "--seed", str(SEED)]


def faults(folder: Path) -> int:
    """Triplets whose negative is the anchor or a positive of that anchor, by value."""
    triplets = pl.read_csv(folder / "triplets.csv", infer_schema=False)
    known = triplets.select("anchor", negative="positive").unique()
    wrong = triplets.join(known, on=["anchor", "negative"], how="semi").height
    return wrong + triplets.filter(pl.col("negative") == pl.col("anchor")).height


def step(name: str, *arguments: object) -> str:
    """What this script prints when it does one step in a process of its own."""
    told = [sys.executable, __file__, "--step", name, *map(str, arguments)]
    return subprocess.run(told, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout


def contend(name: str, data: Path, rows: int, folder: Path) -> dict[str, object]:
    """Run one contender and look at what it wrote."""
    start = time.perf_counter()
    process = subprocess.Popen(command(name, data, folder), cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(
        process.pid, 0
    )  # the kernel's own figure for the peak, without a watcher that takes time
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{name} failed")
    lines, wrong = json.loads(step("look", "--folder", folder))
    cpu = used.ru_utime + used.ru_stime
    return {
        "contender": name,
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "rows_per_cpu_second": round(rows / cpu, 1),
        "peak_mb": round(used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)),
        "triplets": lines,
        "negatives_that_are_positives": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="csv to triplets: rows per second of ours and of a row loop")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--loop_rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3, help="of ours: the median counts")
    parser.add_argument("--careful", action="store_true", help="also the loop that keeps our promises")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=["table", "look"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.step == "table":
        make_table(told.data, told.rows)
        return
    if told.step == "look":
        lines = pl.scan_csv(told.folder / "triplets.csv", infer_schema=False).select(pl.len()).collect().item()
        print(json.dumps([lines, faults(told.folder)]))
        return
    if told.contender:
        run_loop(told.contender, told.data, told.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large, small = folder / "large.csv", folder / "small.csv"
        step("table", "--data", large, "--rows", told.rows)
        step("table", "--data", small, "--rows", told.loop_rows)
        wanted = [each for each in LOOPS if told.careful or each != "careful loop"]
        print(f"{told.rows:,} rows are {large.stat().st_size / 2**20:,.0f} MB of csv", flush=True)
        results = [contend(each, small, told.loop_rows, folder) for each in wanted]
        ours = sorted(
            (contend("ours", large, told.rows, folder) for _ in range(told.repeats)), key=lambda one: one["seconds"]
        )
        results.append(ours[len(ours) // 2])
    for result in results:
        result["ours_is_times_faster"] = round(results[-1]["rows_per_cpu_second"] / result["rows_per_cpu_second"], 1)
    print(pd.DataFrame(results).to_string(index=False))
    machine = detect_machine()
    print(f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb} GB, Python {machine.python}")
    if told.output:
        with atomic_write(told.output) as file:
            file.write(json.dumps({"machine": vars(machine), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
