"""`hf2bmodel`: the command line. Each command registers its own parser; errors and exit codes are settled here.

Exit codes: 0 done; 1 a step failed or a model is below the bar; 2 a mistake of the user's; 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import sys

from cli import bench, build, cache, demo, doctor, rebuild, talk, tokens, zoo
from contract.errors import UserError


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except UserError as error:
        print(f"hf2bmodel: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from runtime.engine import EngineError

        if not isinstance(error, EngineError):
            raise
        print(f"hf2bmodel: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hf2bmodel: interrupted; the next run goes on from what is whole", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `hf2bmodel list | head`
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"hf2bmodel: {where}the disk is full; make room and try again", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf2bmodel", description="From a Hugging Face checkpoint to a verified bmodel, and to talking with it."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (build, bench, talk, tokens, zoo, rebuild, cache, doctor, demo):
        module.add_parsers(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
