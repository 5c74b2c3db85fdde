"""An ordinary FastAPI app. It knows nothing of Lambda and of lambda-dispatch.

    pip install -r requirements.txt                  install FastAPI and uvicorn
    uvicorn app:app --port 3000                      run it by itself
    lambdaadapter -- uvicorn app:app --port 3000     run it in an execution environment
    lambdaadapter -- python app.py                   the same, with the port of $PORT

In a Caddyfile, with the local Lambda in place of AWS:

    lambda_dispatch fastapi {
        invoker local {
            command python examples/fastapi/app.py
        }
    }
"""

import asyncio
import os
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENVIRONMENT = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", f"pid-{os.getpid()}")

app = FastAPI(title="lambda-dispatch example")
app.state.requests = 0


class Echo(Response):
    """Sends the request's body back while it arrives.

    StreamingResponse cannot do this under uvicorn: beside the body it reads the
    same ASGI messages itself, to notice a disconnect, and drops what it reads.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        kept = ("content-type", "content-length")
        self.raw_headers = [(k, v) for k, v in request.headers.raw if k.decode() in kept]
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self.request.stream():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Count:
    """Counts the requests and names the environment on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-environment", ENVIRONMENT.encode())]
            await send(message)

        if scope["type"] == "http" and scope["path"] != "/health":
            app.state.requests += 1
        await self.app(scope, receive, send_named)


app.add_middleware(Count)


@app.get("/", response_class=PlainTextResponse)
async def index() -> str:
    return f"FastAPI in {ENVIRONMENT}\n"


@app.get("/ping", response_class=PlainTextResponse)
async def ping() -> str:
    return "pong"


@app.get("/health", response_class=PlainTextResponse)
async def health() -> str:
    return "OK"


@app.get("/delay", response_class=PlainTextResponse)
async def delay(delay: Annotated[int, Query(ge=0, le=900_000)] = 20) -> str:
    await asyncio.sleep(delay / 1000)
    return f"delayed {delay} ms\n"


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Echo(request)


@app.get("/headers")
async def headers(request: Request) -> dict[str, str]:
    names = request.headers.keys()
    return {name: ", ".join(request.headers.getlist(name)) for name in names}


@app.get("/env")
async def env() -> dict[str, str | int]:
    return {
        "app": "fastapi",
        "environment": ENVIRONMENT,
        "pid": os.getpid(),
        "requests": app.state.requests,
    }


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "3000")), access_log=False)
