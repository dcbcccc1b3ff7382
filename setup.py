"""Packaging. The base install samples and trains from arrays; TensorFlow comes only with the extra `data`."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def _tree(folder: str, pattern: str) -> list[tuple[str, list[str]]]:
    """data_files entries which put ROOT/folder under share/melody_jax/folder."""
    paths = sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob(pattern) if path.is_file())
    return [(f"share/melody_jax/{path.parent}", [str(path)]) for path in paths]


GCS = ["gcsfs>=2026.2"]
SERVE = ["fastapi>=0.115", "uvicorn>=0.32", "prometheus_client>=0.21"]

setup(
    name="melody_jax",
    version="0.1.0",
    description="Train and sample MeLoDy, a language-model-guided diffusion model of music, in JAX on TPUs",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["melody_jax*", "data_pipelines*", "launch*"]),
    package_data={"melody_jax.serve": ["page/*"], "melody_jax.listening": ["page/*"]},
    data_files=_tree("configs", "*.gin") + _tree("configs/launch", "*.yaml"),
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "etils[epath]>=1.12",
        "gin-config>=0.5.0",
        "jaxtyping>=0.3",
        "numpy>=2.0",
        "safetensors>=0.6",
        "tokenizers>=0.20",
        "soundfile>=0.13",
        "soxr>=0.5",
        "matplotlib>=3.9",
        "absl-py>=2.1",
        "PyYAML>=6.0",
        "tqdm>=4.66",
        "tensorboardX>=2.6",
        "av>=15",  # reads what libsndfile does not
        "pyloudnorm>=0.1.1",
    ],
    extras_require={
        "data": [
            "tensorflow>=2.21",
            "tensorflow-text>=2.21",
            "tensorflow-datasets>=4.9.10",
            "seqio>=0.0.20",
            "importlib-resources>=6",  # tensorflow-datasets imports it without saying so
            "scipy>=1.13",
            "scikit-learn>=1.5",
            "mir_eval>=0.8",
            "music21>=10.5",
            "symusic>=0.6",
            "verovio>=6.4",
        ],
        "gcs": GCS,  # paths in buckets, gs://BUCKET/... (docs/buckets.md)
        # metrics of a training elsewhere too (docs/seeing.md); mlflow-skinny is MLflow without its server
        "wandb": ["wandb>=0.20"],
        "mlflow": ["mlflow-skinny>=3.1"],
        "play": ["sounddevice>=0.5"],
        "serve": SERVE,
        "parity": ["torch>=2.9", "transformers>=5.0", "sru>=2.6"],
        "judges": ["torch>=2.9", "transformers>=5.0"],  # models that hear music, for melody evaluate --judge
        "sweep": ["optuna>=4.5"],
        # What T5X, AirIO and JEstimator import; they themselves are pinned in packages-no-deps-t5x.txt (docs/t5x.md).
        "t5x": [
            "cached_property>=2.0",
            "chex>=0.1.92",
            "clu>=0.0.12",
            "fiddle>=0.3.1",
            "grain>=0.2.18",
            "tensorboard>=2.20",
        ],
        "tpu": ["jax[tpu]>=0.10.2"],
        "aot": ["jax[tpu]>=0.10.2"],  # the compiler alone is wanted, on machines without a TPU
        "cuda": ["jax[cuda12]>=0.10.2"],
        "dev": [
            *GCS,
            *SERVE,
            "httpx2>=2",  # what tests of the server call it with
            "playwright>=1.49",  # drives a chromium that is there; downloads none
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "beartype>=0.19",
            "kubernetes-validate>=1.36",
            "ruff==0.14.*",
            "pyright==1.1.*",
            "optuna>=4.5",
            "scipy>=1.13",
            "pre-commit>=4",
        ],
    },
    entry_points={"console_scripts": ["melody = melody_jax.cli.main:main"]},
)
