"""Make one self-contained HTML page of runs that are there.

example:
  orthostream report runs/compare-demo --out report.html
"""

import argparse
from pathlib import Path

from orthostream.analysis.compare import Comparison
from orthostream.analysis.report import write_report
from orthostream.analysis.runs import find_runs, grouped, read_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream report``."""
    parser.add_argument("runs", metavar="RUNS", nargs="+", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page; default report.html")
    parser.add_argument("--title", help="of the page; default: the names of the folders")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream report``; code 1 where a run could not be read."""
    found = read_runs(folder for root in options.runs for folder in find_runs(root))
    comparison = Comparison(grouped(found.read), unreadable=found.unreadable)
    print(comparison.table())
    write_report(options.out, comparison, title=options.title or ", ".join(path.name for path in options.runs))
    print(f"\npage: {options.out}")
    return 1 if found.unreadable else 0
