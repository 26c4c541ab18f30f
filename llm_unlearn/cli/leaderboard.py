"""The leaderboard: `llm-unlearn leaderboard add FOLDER` and `llm-unlearn leaderboard build`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llm_unlearn.arguments.flags import parse_command
from llm_unlearn.errors import InputError

DESCRIPTION = """\
Keep a leaderboard of methods: one JSON file for each that a benchmark measured, and a page made of all of them.

  add     take over every method of finished benchmarks (output folders of `llm-unlearn run robustness`), build the page
  build   build the page again from the files that are there
  check   say whether the page is what its files give (exit code 1 if not)"""
EXAMPLES = """\
examples:
  llm-unlearn run robustness --methods npo ssiuu --seeds 60 61 62 --output_dir outputs/robustness
  llm-unlearn leaderboard add outputs/robustness --by "Ann Lee"
  llm-unlearn leaderboard check          # before a pull request"""
FOLDER = Path("docs") / "leaderboard"


def main(argv: Sequence[str]) -> int:
    """Add to, build or check a leaderboard; returns 1 where a check fails.

    Raises:
        InputError: no such benchmark, no entries, or flags that do not go together.
    """
    parser = argparse.ArgumentParser(
        prog="llm-unlearn leaderboard",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["add", "build", "check"])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="output folders of benchmarks, to add")
    parser.add_argument("--leaderboard", type=Path, default=FOLDER, help=f"folder of the leaderboard ({FOLDER})")
    parser.add_argument("--by", default=None, help="who measured what is added; default: nobody is named")
    arguments = parse_command(parser, argv)
    if (arguments.action == "add") != bool(arguments.folders):
        raise InputError(f"leaderboard {arguments.action}: benchmark folders go with add, and with nothing else")
    from llm_unlearn.reporting.leaderboard import PAGE, add_benchmark, build_page, page_of, read_entries

    if arguments.action == "check":
        page = arguments.leaderboard / PAGE
        current = page.is_file() and page.read_text(encoding="utf-8") == page_of(read_entries(arguments.leaderboard))
        print(f"{page} is what its entries give" if current else f"{page} is stale: llm-unlearn leaderboard build")
        return 0 if current else 1
    for folder in arguments.folders:
        for file in add_benchmark(folder, arguments.leaderboard, arguments.by):
            print(file)
    print(build_page(arguments.leaderboard))
    return 0
