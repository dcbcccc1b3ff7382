"""`melody train`: bindings, errors in one line, and a whole run on arrays in place of the data set."""

import pytest

from melody_jax import graph
from melody_jax.bundle.part import load_part
from melody_jax.cli import main, train
from melody_jax.errors import STOPPED
from melody_jax.files import read_lines
from melody_jax.operations import configuration, opening, training
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.stage import Data
from tests.train import regression

FILES = {
    "stages/regression.gin": """
        from __gin__ import dynamic_registration
        from melody_jax import geometry
        from melody_jax.train import loop
        from melody_jax.train import optim
        from tests.train import regression
        TOTAL_STEPS = %gin.REQUIRED
        loop.train.stage = @regression.RegressionStage()
        loop.train.run = @loop.Run()
        loop.Run.total_steps = %TOTAL_STEPS
        optim.OptimConfig.total_steps = %TOTAL_STEPS
        regression.RegressionStage.config = @regression.RegressionConfig()
        regression.RegressionStage.geometry = @geometry.Geometry()
        regression.RegressionStage.optim = @optim.OptimConfig()
    """,
    "sizes/tiny/geometry.gin": "from __gin__ import dynamic_registration\nfrom melody_jax import geometry\n",
    "sizes/tiny/regression.gin": "TOTAL_STEPS = 12\n",
    "hardware/cpu.gin": "DTYPE = 'float32'\n",
}


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.strip() for line in text.splitlines()))
    monkeypatch.setattr(configuration, "configs_directory", lambda: tmp_path / "configs")
    monkeypatch.setattr(opening, "data_directory", lambda *_: tmp_path)
    monkeypatch.setattr(opening, "check_geometry", lambda *_: None)
    monkeypatch.setattr(opening, "check_clips", lambda *_: None)
    monkeypatch.setattr(opening.Opened, "data", _open_arrays)
    return tmp_path / "configs"


def _open_arrays(opened):
    rows = opened.stage.batch_size
    return Data(
        ArrayBatches(regression.examples(), rows, seed=opened.run.seed),
        ArrayBatches(regression.examples(seed=1), rows, shuffle=False),
    )


def melody(tmp_path, *arguments, stage="regression"):
    common = ["--size", "tiny", "--data", "rows", "--model_dir", str(tmp_path / "models"), "--hardware", "cpu"]
    return main.main(["train", stage, *common, *arguments])


def composed(*bindings, **changes):
    return configuration.compose(configuration.gin_files("regression", "tiny", "cpu"), bindings=bindings, **changes)


def test_a_run_from_the_command_line(tmp_path, capsys):
    extra = tmp_path / "mine.gin"
    extra.write_text("loop.Run.eval_every = 4\nregression.RegressionConfig.width = 24\n")
    assert melody(tmp_path, "--gin_file", str(extra), "--set", "optim.OptimConfig.schedule=linear",
                  "--gin.loop.Run.log_every=3", "--seed", "5", "--mesh", "data=4,fsdp=2", "--profile", "2:3") == 0  # fmt: skip
    folder = tmp_path / "models" / "regression"
    part = load_part(folder)
    assert part.training["steps"] == 12 and part.training["seed"] == 5 and part.training["data"] == "rows"
    assert part.config["width"] == 24
    steps = {split: [r["step"] for r in read_lines(folder / "metrics.jsonl") if r["split"] == split]
             for split in ("train", "eval")}  # fmt: skip
    assert steps == {"train": [3, 6, 9, 12], "eval": [4, 8, 12]}
    assert len(list((folder / "profile").rglob("*.xplane.pb"))) == 1
    saved = (folder / "config.gin").read_text()
    assert "optim.OptimConfig.schedule = 'linear'" in saved
    assert "regression: " in capsys.readouterr().out
    # more steps, on the command line
    assert melody(tmp_path, "--gin_file", str(extra), "--total_steps", "14", "--seed", "5") == 0
    assert load_part(folder).training["steps"] == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optim.OptimConfig.learning_rat=1"], "doesn't have a parameter named 'learning_rat'"),
        (["--set", "nothing.OptimConfig.b1=1"], "No configurable matching"),
        (["--set", "optim.OptimConfig.b1"], "expected binding=value"),
        (["--set", "TOTAL_STEP=3"], "nobody reads 'TOTAL_STEP = 3'"),
        (["--set", "TOTAL_STEP=3"], "(did you mean TOTAL_STEPS?)"),
        (["--set", "optim.OptimConfig.learning_rat=1"], "(did you mean optim.OptimConfig.learning_rate?)"),
        (["--set", "loop.train.log_every=3"], "(did you mean loop.Run.log_every?)"),
        (["--set", "loop.Run.log_every=0"], "loop.Run.log_every must be at least 1, got 0"),
        (["--set", "loop.Run.keep=2.5"], "Run.keep is 2.5, which is no int"),
        (["--set", "regression.RegressionStage.batch_size=0"], "the batch size must be at least 1, got 0"),
        (["--set", "optim.OptimConfig.accumulate=13"], "the training ends after 12"),
        (["--gin.other/optim.OptimConfig.b1=0.5"], "nobody reads 'other/optim.OptimConfig.b1=0.5'"),
        (["--gin.optim.OptimConfig.schedule=linear"], "configuration: "),
        (["--set", "optim.OptimConfig.schedule=step"], "schedule 'step' is none of"),
        (["--gin_file", "absent.gin"], "gin file absent.gin does not exist"),
        (["--total_steps", "0"], "--total_steps must be at least 1"),
        (["--total_steps", "many"], "invalid int value"),
        (["--profile", "15:10"], "profile '15:10' is not FIRST:LAST"),
        (["--profile", "10"], "profile '10' is not FIRST:LAST"),
        (["--profile", ""], "--profile is empty"),
        (["--stepz", "3"], "unknown arguments: --stepz 3"),
        (["--mesh", "data=3"], "needs 3 devices and there are 8"),
        (["--hardware", "abacus"], "unknown hardware 'abacus'; choose one of cpu"),
        (["--size", "huge"], "unknown size 'huge'; choose one of tiny"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert melody(tmp_path, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and message in error
    assert "--profile" not in arguments or not (tmp_path / "models").exists()  # nothing has begun


def test_a_size_that_is_no_whole_number_is_refused(tmp_path, capsys):
    assert melody(tmp_path, "--set", "regression.RegressionConfig.width=2.5") == 2
    assert "RegressionConfig.width is 2.5, which is no int" in capsys.readouterr().err


def test_a_model_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "models").write_text("")
    assert melody(tmp_path) == 2
    assert f"--model_dir: {tmp_path / 'models'} is a file, not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (RuntimeError("Unable to initialize backend 'cuda': no such thing"), 2, "has no such device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_devices_that_are_not_here_and_interrupts_are_one_line(tmp_path, capsys, monkeypatch, raised, code, said):
    def join():
        raise raised

    monkeypatch.setattr(train.hosts, "join", join)
    assert melody(tmp_path) == code
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and said in error


def test_config_prints_what_a_run_would_be(chain, tmp_path, capsys):
    options = ["--size", "tiny", "--hardware", "cpu", "--total_steps", "7", "--seed", "5"]
    assert main.main(["config", "regression", *options, "--set", "regression.RegressionConfig.width=24"]) == 0
    printed = capsys.readouterr().out
    assert all(line in printed for line in ("RegressionConfig.width = 24", "Run.seed = 5", "TOTAL_STEPS = 7"))
    (tmp_path / "again.gin").write_text(printed)
    again = configuration.compose([], [str(tmp_path / "again.gin")])
    assert (again.run.total_steps, again.stage.config.width) == (7, 24)
    assert main.main(["config", "regressio", "--size", "tiny"]) == 2


def test_unknown_stage(tmp_path, capsys):
    assert melody(tmp_path, stage="regressio") == 2
    assert "unknown stage 'regressio'; choose one of regression" in capsys.readouterr().err


def test_a_stopped_run_exits_with_its_code(tmp_path, capsys):
    assert melody(tmp_path, "--set", "regression.RegressionStage.poison_step=2") == STOPPED
    assert "error: regression: step 2: metric loss is nan" in capsys.readouterr().err


def test_set_quotes_strings_and_leaves_the_rest():
    assert configuration.binding_of("a.b=linear") == "a.b = 'linear'"
    assert configuration.binding_of("a.b='linear'") == "a.b = 'linear'"
    assert configuration.binding_of("a.b = (1, 2.5)") == "a.b = (1, 2.5)"
    assert configuration.binding_of("a.b=@c.D()") == "a.b = @c.D()"
    assert configuration.binding_of("mesh=data=2") == "mesh = 'data=2'"


def test_later_sources_win(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("TOTAL_STEPS = 7\n")
    assert composed().run.total_steps == 12
    assert composed(user_files=[str(file)]).run.total_steps == 7
    made = composed("TOTAL_STEPS = 9", user_files=[str(file)])
    assert made.run.total_steps == made.stage.optim.total_steps == 9


def test_unread_bindings_are_found_in_files_too(configs):
    (configs / "sizes" / "tiny" / "regression.gin").write_text("TOTAL_STEPS = 12\nBATCH = 3\nx/OptimConfig.b1 = 0.5\n")
    composed()
    assert configuration.unread() == ["BATCH", "x/melody_jax.train.optim.OptimConfig"]


@pytest.fixture
def chain(configs, monkeypatch):
    """Two stages, the second a child of the first."""
    text = (configs / "stages" / "regression.gin").read_text()
    (configs / "stages" / "child.gin").write_text(text.replace("RegressionStage", "ChildStage"))
    (configs / "sizes" / "tiny" / "child.gin").write_text("TOTAL_STEPS = 5\n")
    monkeypatch.setattr(graph, "ORDER", ("regression", "child"))
    monkeypatch.setattr(graph, "PARENTS", {"child": ("regression",)})


def test_a_stage_without_its_parent_is_refused(chain, tmp_path, capsys):
    assert melody(tmp_path, stage="child") == 2
    assert "child needs a finished regression in" in capsys.readouterr().err


def test_all_trains_in_order_skips_what_is_finished_and_continues_the_rest(chain, tmp_path, capsys, monkeypatch):
    trained = []
    real = training.train_one
    monkeypatch.setattr(
        training, "train_one", lambda args, config: (trained.append(config.stage.name), real(args, config))
    )
    # the second stage is interrupted by a metric that is not finite
    poison = ["--set", "regression.ChildStage.poison_step=4", "--set", "loop.Run.checkpoint_every=2"]
    assert melody(tmp_path, *poison, stage="all") == STOPPED
    assert trained == ["regression", "child"]
    assert melody(tmp_path, stage="all") == 0
    assert trained == ["regression", "child", "child"]
    assert "regression: finished before" in capsys.readouterr().out
    models = tmp_path / "models"
    assert load_part(models / "child").parents == {"regression": load_part(models / "regression").id}
    assert melody(tmp_path, stage="all") == 0
    assert len(trained) == 3
    # a new parent makes the child stale, and its checkpoints are refused
    assert melody(tmp_path, "--total_steps", "13") == 0
    assert melody(tmp_path, stage="all") == 2
    assert "was begun with another regression" in capsys.readouterr().err


def test_all_refuses_a_binding_that_no_stage_reads(chain, tmp_path, capsys):
    assert melody(tmp_path, "--set", "nothing.b=1", stage="all") == 2
    assert "nobody reads 'nothing.b = 1'" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_the_run_is_never_configured_by_other_commands_arguments():
    args = main.parse(["train", "lm", "--size", "tiny", "--data", "x", "--model_dir", "y"])
    assert (args.hardware, args.set, args.gin_file, args.total_steps) == ("auto", [], [], None)
