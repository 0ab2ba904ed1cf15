"""Routes of the page. Every route begins with the token; raters are in the address by number, records never are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import OutputError
from ..stats.intervals import Estimate
from ..text import one_line
from .results import Results
from .security import Access, Guard
from .session import Session, View

LONGEST_BODY = 64_000
LONGEST_NAME, LONGEST_COMMENT = 60, 4_000
HERE = Path(__file__).parent


def make_app(session: Session, results: Results, access: Access) -> Guard:
    page = Page(session, results, access.token)
    routes = [
        Route("/", page.start),
        Route("/join", page.join, methods=["POST"]),
        Route("/rater/{rater:int}/{view}", page.work),
        Route("/rater/{rater:int}/{view}/rate", page.rate, methods=["POST"]),
        Route("/rater/{rater:int}/{view}/undo", page.undo, methods=["POST"]),
        Route("/rater/{rater:int}/{view}/comment", page.comment, methods=["POST"]),
        Route("/rater/{rater:int}/{view}/status", page.status),
        Route("/rater/{rater:int}/{view}/record", page.record),
        Route("/rater/{rater:int}/{view}/results", page.results),
        Route("/rater/{rater:int}/{view}/write", page.write, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    handlers: Any = {OutputError: _not_saved}
    return Guard(Starlette(routes=[Mount(f"/{access.token}", routes=routes)], exception_handlers=handlers), access)


async def _not_saved(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"Not saved: {error}", 507)


class Page:
    """The routes' functions. They run in the server's one thread, so that the session needs no lock."""

    def __init__(self, session: Session, results: Results, token: str) -> None:
        self.session, self.keep, self.base = session, results, f"/{token}"
        self.pages = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            auto_reload=False,
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self.pages.filters.update(percent=lambda share: f"{100 * share:.0f} %", interval=interval)

    async def start(self, request: Request) -> Response:
        return self._html("start.html.j2", names=self.session.names, refused="")

    async def join(self, request: Request) -> Response:
        name = " ".join((await form(request)).get("name", "").split())[:LONGEST_NAME]
        if not name or not name.isprintable():
            return self._html("start.html.j2", names=self.session.names, refused="Type a name.", code=422)
        return self._to(self.session.join(name), self._first_view)

    async def work(self, request: Request) -> Response:
        rater, view = self._who(request)
        self.session.renew_agreement()
        return self._html("work.html.j2", **self._shown(rater, view))

    async def rate(self, request: Request) -> Response:
        rater, view = self._who(request)
        sent = await form(request)
        key, value = sent.get("record", ""), sent.get("value", "")
        before = self.session.shown(rater, view)
        if before is not None and before.key == key and (comment := sent.get("comment")) is not None:
            self.session.comment(rater, key, clean(comment))
        label = value.lstrip("-").isdigit() and self.session.rate(rater, view, key, sent.get("step", ""), int(value))
        said = f"Saved: {self.session.source.scale.label_of(int(value))}." if label else ""
        return self._answer(request, rater, view, said or "Not saved: this page was out of date. Rate this record.")

    async def undo(self, request: Request) -> Response:
        rater, view = self._who(request)
        await form(request)
        undone = self.session.undo(rater, view)
        return self._answer(request, rater, view, "Undone: rate this record again." if undone else "Nothing to undo.")

    async def comment(self, request: Request) -> Response:
        rater, _ = self._who(request)
        sent = await form(request)
        self.session.comment(rater, sent.get("record", ""), clean(sent.get("comment", "")))
        return Response(status_code=204)

    async def status(self, request: Request) -> Response:
        rater, view = self._who(request)
        return self._html("status.html.j2", **self._frame(rater, view))

    async def record(self, request: Request) -> Response:
        """The record that has become free for a rater who had none; nothing where there still is none."""
        rater, view = self._who(request)
        if self.session.shown(rater, view) is None:
            return Response(status_code=204)
        return self._html("record.html.j2", **self._shown(rater, view))

    async def results(self, request: Request) -> Response:
        return self._results(request, "")

    async def write(self, request: Request) -> Response:
        await form(request)
        return self._results(request, self.keep.write(self.session))

    def _results(self, request: Request, said: str) -> Response:
        self.session.renew_agreement()
        return self._html(
            "results.html.j2", said=said, output=self.keep.output.name, **self._frame(*self._who(request))
        )

    def _answer(self, request: Request, rater: int, view: View, said: str) -> Response:
        """What htmx asked for, or the page again for a browser without scripts."""
        if request.headers.get("hx-request"):
            return self._html("record.html.j2", **self._shown(rater, view, said))
        return self._to(rater, view)

    def _shown(self, rater: int, view: View, said: str = "") -> Mapping[str, Any]:
        session = self.session
        item = session.shown(rater, view)
        step = session.step(rater, view, item.key) if item else ""
        own = session.votes.independent.get(item.key, {}).get(rater) if item and step == "revised" else None
        pieces, labels = [], session.source.scale
        if item is not None:
            blind = session.source.work == "review" and step == "independent"
            leading = labels.value_of(item.opinion.label) if item.opinion else None
            pieces = [(each.text, "" if blind and each.kind == "mark" else each.kind)
                      for each in session.marked(item, leading)]  # fmt: skip
        said_by = session.opinions(item.key) if item and view == "adjudicate" else {}
        comments = {
            session.names[who]: text for (who, key), text in session.comments.items() if item and key == item.key
        }
        return {
            **self._frame(rater, view),
            "item": item,
            "pieces": pieces,
            "step": step,
            "own": own,
            "said": said,
            "choices": list(zip(labels.values, labels.labels, strict=True)),
            "experts": [(name, labels.label_of(value), comments.get(name, "")) for name, value in said_by.items()],
            "comment": session.comments.get((rater, item.key), "") if item else "",
        }

    def _frame(self, rater: int, view: View) -> Mapping[str, Any]:
        name, status = self.session.names[rater], self.session.status()
        return {"rater": rater, "name": name, "view": view, "status": status, "own_count": status.raters.get(name, 0),
                "here": f"{self.base}/rater/{rater}/{view}"}  # fmt: skip

    def _who(self, request: Request) -> tuple[int, View]:
        rater, view = request.path_params["rater"], request.path_params["view"]
        if rater not in self.session.names or view not in {self._first_view, "adjudicate"}:
            raise HTTPException(404, "No such rater or page.")
        return rater, view

    @property
    def _first_view(self) -> View:
        return self.session.source.work

    def _to(self, rater: int, view: View) -> Response:
        return RedirectResponse(f"{self.base}/rater/{rater}/{view}", 303)

    def _html(self, template: str, code: int = 200, **values: Any) -> Response:
        source = self.session.source
        common = {"base": self.base, "work": source.work, "file": source.path.name, "common": source.common,
                  "topics": source.topics}  # fmt: skip
        return HTMLResponse(self.pages.get_template(template).render(**common, **values), code)


async def form(request: Request) -> dict[str, str]:
    """The fields of a form; of one that repeats, the last. Raises HTTPException for a body that is too long."""
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > LONGEST_BODY:
                raise HTTPException(413, "Too long.")
    except ClientDisconnect:
        return {}
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}


def clean(text: str) -> str:
    """A comment in one line, without control characters."""
    return one_line(text)[:LONGEST_COMMENT]


def interval(estimate: Estimate) -> str:
    """An estimated share with its interval: "4 % (95 % interval 2 to 9 %)"."""
    if estimate.value is None or estimate.interval is None:
        return "–"
    low, high = 100 * estimate.interval.low, 100 * estimate.interval.high
    return f"{100 * estimate.value:.1f} % (95 % interval {low:.1f} to {high:.1f} %)"
