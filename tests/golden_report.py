"""Run every golden test and print, per golden file, how many tensors were compared and the largest deviation.

    python tests/golden_report.py

A golden test is one with "golden" in the name of its file or function.
"""

import sys
from itertools import groupby
from pathlib import Path

import pytest

from golden import deviations

TESTS = Path(__file__).resolve().parent


def main() -> int:
    """Run, print, and return the exit code of the tests."""
    # Slow ones too; in this process, so that the comparisons arrive in the list below.
    code = pytest.main([str(TESTS), "-k", "golden", "-m", "not gpu", "-p", "no:cacheprovider", "-q"])

    ordered = sorted(deviations, key=lambda deviation: deviation.file)
    print(f"\n{'golden file':<44} {'tensors':>8} {'largest difference':>19} {'of its tolerance':>17}")
    for file, group in groupby(ordered, key=lambda deviation: deviation.file):
        found = list(group)
        difference = max(deviation.difference for deviation in found)
        ratio = max(deviation.ratio for deviation in found)
        print(f"{file:<44} {len(found):>8} {difference:>19.2e} {ratio:>16.1%}")
    print(f"{'all':<44} {len(ordered):>8}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
