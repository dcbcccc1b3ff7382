"""`melody doctor STAGE`: what to look at before a long training: inputs, one step, one batch by heart, the disk."""

import argparse
import dataclasses
import json

import jax

from melody_jax import graph
from melody_jax.cli import arguments, train
from melody_jax.operations.doctor.examine import examine
from melody_jax.operations.doctor.finding import FAILURE
from melody_jax.parallel import hosts

EPILOG = "Exit code 1: at least one finding is a failure."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_configuration(parser, ", ".join(graph.ORDER))
    text = "of the parameters, on one fixed batch (default 30)"
    parser.add_argument("--updates", action=arguments.Positive, default=30, help=text)
    arguments.add(parser, "json")


def run(args: argparse.Namespace) -> int:
    hosts.join()
    findings, first_host = [], jax.process_index() == 0
    for finding in examine(train.request_of(args), args.updates):
        findings.append(finding)
        if first_host and not args.json:
            print(finding, flush=True)
    if first_host and args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    return int(any(finding.level == FAILURE for finding in findings))
