"""`melody listen`: two folders of music, compared by ear without knowing which is which."""

import argparse
import pathlib

from melody_jax.cli.arguments import command, option
from melody_jax.errors import of_extra


@command(
    option("a", "a folder of music, as `melody generate --out` leaves it", type=pathlib.Path, metavar="A"),
    option("b", "another one, for the same sentences", type=pathlib.Path, metavar="B"),
    option(
        "--answers",
        "keeps the answers, as JSON lines; what it holds counts (answers.jsonl)",
        type=pathlib.Path,
        default="answers.jsonl",
        metavar="FILE",
    ),
    option("--host", "address to listen on (127.0.0.1: this machine alone)", default="127.0.0.1"),
    option("--port", "0 for any that is free (8000)", type=int, default=8000),
    option("--report", "print the shares, and serve nothing", action="store_true"),
    epilog="Pieces with the same name in both folders are a pair; Ctrl-C ends it and prints the shares.",
)
def listen(args: argparse.Namespace) -> None:
    from melody_jax.listening.study import Study, pairs_of

    study = Study(pairs_of(args.a, args.b), args.answers)
    if not args.report:
        with of_extra("serve", "melody listen"):
            import uvicorn

            from melody_jax.listening.app import create_app
            from melody_jax.serve.run import listening

        with listening(args.host, args.port) as place:
            print(f"{len(study.pairs)} pairs on http://{args.host}:{place.getsockname()[1]}", flush=True)
            server = uvicorn.Server(uvicorn.Config(create_app(study), log_level="warning", access_log=False))
            server.run(sockets=[place])
    print(study.table())
