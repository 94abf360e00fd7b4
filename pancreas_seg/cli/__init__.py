"""The command line: one verb is one public function; errors become exit codes.

0 done, 2 wrong usage or configuration, 3 input refused, 4 some of several cases refused or failed, 1 a bug.
Paths written go to stdout, everything else to stderr.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from pancreas_seg.cli.parser import make_parser
from pancreas_seg.cli.terminal import INTERRUPTED, helps_only
from pancreas_seg.errors import PancreasSegError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = make_parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("pancreas_seg").setLevel(logging.WARNING if options.quiet or helps_only() else logging.INFO)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # it would log each error a second time
    try:
        return int(options.run(options))
    except PancreasSegError as error:
        print(f"pancreas-seg: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(
            f"pancreas-seg: {error.filename or 'a file'}: {error.strerror}. Check the path, its permissions and the "
            "free space. [config.file]",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("pancreas-seg: interrupted; finished files are complete, the unfinished one is gone", file=sys.stderr)
        return INTERRUPTED
