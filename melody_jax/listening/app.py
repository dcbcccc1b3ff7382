"""The addresses of a listening study, and its page."""

import pathlib
from typing import Annotated, Any, Literal

import fastapi
import pydantic
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from melody_jax.listening.study import QUESTIONS, Study
from melody_jax.serve.app import PAGE as SHARED
from melody_jax.serve.guard import Guard

PAGE = pathlib.Path(__file__).parent / "page"
Listener = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-z]{8,40}$")]


class Answer(pydantic.BaseModel):
    """A listener's choices for a pair."""

    listener: Listener
    pair: int
    choices: dict[Literal["musicality", "quality", "fit"], Literal["first", "second", "same"]] = pydantic.Field(
        min_length=len(QUESTIONS)
    )


def create_app(study: Study) -> fastapi.FastAPI:
    """Nothing that it answers tells which folder a piece is from."""
    app = fastapi.FastAPI(title="melody listen", docs_url=None, redoc_url=None)

    def known(pair: int) -> None:
        if not 0 <= pair < len(study.pairs):
            raise fastapi.HTTPException(404, "there is no such pair")

    @app.get("/v1/next")
    async def following(listener: Listener) -> dict[str, Any]:
        """The pair that a listener should hear next; `pair` is null where all have been heard."""
        pair, count = study.next_of(listener), {"done": study.heard_by(listener), "of": len(study.pairs)}
        return {"pair": pair, "prompt": None if pair is None else study.pairs[pair].prompt, **count}

    @app.get("/v1/sounds/{listener}/{pair}/{side}")
    async def sound(listener: Listener, pair: int, side: Literal["first", "second"]) -> FileResponse:
        """One of its two pieces."""
        known(pair)
        file = study.sound(listener, pair, ("first", "second").index(side))
        return FileResponse(file, headers={"Cache-Control": "no-store"})

    @app.post("/v1/answers", status_code=201)
    async def answer(body: Answer) -> dict[str, Any]:
        """Keeps an answer; the next pair."""
        known(body.pair)
        study.answer(body.listener, body.pair, body.choices)
        return await following(body.listener)

    @app.get("/v1/questions")
    async def questions() -> dict[str, str]:
        """Name -> words."""
        return QUESTIONS

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/shared", StaticFiles(directory=SHARED))
    app.mount("/page", StaticFiles(directory=PAGE))
    app.add_middleware(Guard, token=None, open_paths=(), upload_path="")
    return app
