"""Finetuning: the language model and the diffusion model of a bundle go on learning, on music of one's own."""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from melody_jax import config as config_lib
from melody_jax.bundle.adapter import NAME, AdapterConfig
from melody_jax.bundle.bundle import Bundle, export
from melody_jax.bundle.card import Card
from melody_jax.bundle.lineage import short
from melody_jax.bundle.part import INFO_FILE, Part, locate, read_info, save_part
from melody_jax.errors import UserError
from melody_jax.files import write_whole
from melody_jax.geometry import Geometry
from melody_jax.graph import READ_AUDIO, READ_TOKENS
from melody_jax.interop.huggingface import bindings as gin_of
from melody_jax.operations import configuration
from melody_jax.operations.configuration import RunConfig
from melody_jax.operations.training import Request, prepare_jax, train_one
from melody_jax.stages.adapter import AdapterStage

BUNDLE = "bundle"
"""Where in the output folder the bundle is."""


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """What `melody finetune` is asked for.

    Attributes:
      bundle: folder of the bundle.
      data, data_dir: name of the data set of audio, and where data sets lie.
      out: gets tokens, runs and the new bundle.
      stages: which of lm and dpd learn.
      rank: of the adapters; 0 trains all weights.
      alpha: adapters count alpha / rank (`AdapterConfig`).
      hardware, gin_files, bindings: as of `training.Request`.
    """

    bundle: str
    data: str
    out: str
    data_dir: str = Request.data_dir
    stages: Sequence[str] = READ_TOKENS
    rank: int = 0
    alpha: float = AdapterConfig.alpha
    hardware: str = Request.hardware
    gin_files: Sequence[str] = ()
    bindings: Sequence[str] = ()


def finetune(asked: Finetuning) -> Bundle:
    """Trains, and writes OUT/bundle. Started again it goes on where it stopped, and what is finished stays.

    Of adapters the bundle has them merged; they lie in OUT/lm and OUT/dpd, for `Bundle.load(..., adapters=...)`.

    Raises:
      UserError: the bundle lacks what makes tokens, the configuration or the data set is wrong, or OUT is of another bundle.
      StoppedError: see `loop.train`.
    """
    bundle = Bundle.load(asked.bundle)
    missing = [name for name in READ_AUDIO if name not in bundle.parts]
    if missing:
        raise UserError(f"{asked.bundle} has no part {missing[0]}, which makes the tokens of new music")
    unknown = [name for name in asked.stages if name not in READ_TOKENS]
    if unknown or not asked.stages:
        raise UserError(f"--stages: {', '.join(READ_TOKENS)} can be finetuned, not {', '.join(unknown) or 'nothing'}")
    requests = {name: _request(asked, bundle, name) for name in asked.stages}
    configs = {name: _compose(asked, bundle, name, several=len(requests) > 1) for name in asked.stages}
    configuration.refuse_ignored(frozenset.intersection(*(config.ignored for config in configs.values())))
    out = Path(asked.out)
    for name in READ_AUDIO:
        _copy(bundle, name, out)
    prepare_jax()
    began = time.time()
    for name, config in configs.items():
        if _finished(bundle.parts[name], out / name, asked.rank):
            print(f"{name}: finished before, {locate(out / name)}")
            continue
        run = dataclasses.replace(config.run, began=began)
        train_one(requests[name], dataclasses.replace(config, run=run))
        began = time.time()
    return _export(asked, bundle)


def _request(asked: Finetuning, bundle: Bundle, name: str) -> Request:
    tokenizer = None if bundle.tokenizer is None else str(bundle.tokenizer)
    return Request(name, "", asked.data, asked.out, asked.data_dir, asked.hardware, tokenizer=tokenizer)


def _compose(asked: Finetuning, bundle: Bundle, name: str, several: bool) -> RunConfig:
    """The stage's configuration: the shape of the bundle's part, the steps and rates of configs/finetune."""
    part, root = bundle.parts[name], configuration.configs_directory()
    with tempfile.TemporaryDirectory() as scratch:
        shape = write_whole(Path(scratch) / "shape.gin", _shape(name, part))
        files = [root / "stages" / f"{name}.gin", shape, configuration.hardware_file(asked.hardware)]
        files += [root / "finetune" / f"{kind}.gin" for kind in (name, "lora" if asked.rank else "full")]
        config = configuration.compose(files, asked.gin_files, asked.bindings, partial=several)
    source = str(bundle.directory / name)
    run = dataclasses.replace(config.run, model_dir=asked.out, data=asked.data)
    if not asked.rank:
        run = dataclasses.replace(run, init_from=(source,), measure=False)
        return dataclasses.replace(config, run=run)
    stage = dataclasses.replace(config.stage, parents_dir=asked.out)  # pyright: ignore[reportArgumentType, reportCallIssue]
    adapter = AdapterStage(
        AdapterConfig(name, asked.rank, asked.alpha),
        stage.geometry,
        stage.optim,  # pyright: ignore[reportAttributeAccessIssue]
        stage.batch_size,
        stage,  # pyright: ignore[reportArgumentType]
        source,
    )
    return dataclasses.replace(config, stage=adapter, run=run)


def _shape(name: str, part: Part) -> str:
    """A gin file that gives the stage the part's geometry and configuration; the dtype is the hardware's."""
    from melody_jax.dpd.config import DPDConfig
    from melody_jax.lm.config import LMConfig

    fields = {field: value for field, value in part.config.items() if field != "dtype"}
    own = gin_of({"lm": LMConfig, "dpd": DPDConfig}[name], fields)
    return own + "\n" + gin_of(Geometry, config_lib.to_dict(part.geometry)).partition("\n")[2]


def _copy(bundle: Bundle, name: str, out: Path) -> None:
    """Puts a part of the bundle into the output folder, where its tokens are made; whole or not at all."""
    folder, part = locate(out / name), bundle.parts[name]
    if (folder / INFO_FILE).is_file():
        found = read_info(folder)["id"]
        if found != part.id:
            raise UserError(f"{out} holds another {name} ({short(found)}); name a new --out for this bundle")
        return
    save_part(out / name, name, part.params, part.config, part.geometry, part.parents, part.training, part_id=part.id)


def _finished(base: Part, folder: Path, rank: int) -> bool:
    """Whether the run in `folder` has its part, which must have begun from `base` in the same way."""
    if not (locate(folder) / INFO_FILE).is_file():
        return False
    info = read_info(folder)
    adapter = info["name"] == NAME
    begun = [info["parents"].get(base.name)] if adapter else [r["id"] for r in info["training"].get("init_from", [])]
    if begun != [base.id] or (adapter and info["config"].get("rank") != rank) or adapter != bool(rank):
        raise UserError(f"{folder} holds a {info['name']} of another finetuning; name a new --out")
    return True


def _export(asked: Finetuning, bundle: Bundle) -> Bundle:
    out, whole = Path(asked.out), () if asked.rank else asked.stages
    sources = [out / name if name in whole else bundle.directory / name for name in bundle.parts]
    card = Card(
        title=f"{bundle.directory.resolve().name}, finetuned on {asked.data}",
        data=f"Begun from {bundle.directory.resolve().name}; {' and '.join(asked.stages)} went on with {asked.data}.",
    )
    return export(
        sources,
        out / BUNDLE,
        card=card,
        sampling=bundle.sampling,
        tokenizer=bundle.tokenizer,
        adapters={str(out): 1.0} if asked.rank else None,
    )
