"""`melody listen`: two folders of music, compared by ear without knowing which is which."""

import argparse
import pathlib

from melody_jax.cli import arguments

EPILOG = "Pieces with the same name in both folders are a pair; Ctrl-C ends it and prints the shares."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "a", type=pathlib.Path, metavar="A", help="a folder of music, as `melody generate --out` leaves it"
    )
    parser.add_argument("b", type=pathlib.Path, metavar="B", help="another one, for the same sentences")
    text = "keeps the answers, as JSON lines; what it holds counts (answers.jsonl)"
    parser.add_argument("--answers", type=pathlib.Path, default="answers.jsonl", metavar="FILE", help=text)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (8000)")
    parser.add_argument("--report", action="store_true", help="print the shares, and serve nothing")


def run(args: argparse.Namespace) -> None:
    from melody_jax.listening.study import Study, pairs_of

    study = Study(pairs_of(args.a, args.b), args.answers)
    if not args.report:
        with arguments.installed("melody listen", "pip install 'melody_jax[serve]'"):
            import uvicorn

            from melody_jax.listening.app import create_app
            from melody_jax.serve.run import listening

        with listening(args.host, args.port) as place:
            print(f"{len(study.pairs)} pairs on http://{args.host}:{place.getsockname()[1]}", flush=True)
            server = uvicorn.Server(uvicorn.Config(create_app(study), log_level="warning", access_log=False))
            server.run(sockets=[place])
    print(study.table())
