"""The server of the app: only what the page needs is answered, and the page asks nothing of other machines."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from flowleap.app import markup
from flowleap.app.library import Library

OFFLINE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Set before Gradio is imported: no telemetry, no look at newer versions, no hub."""
PATHS = ("/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
CALLS = ("/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/cancel", "/gradio_api/reset")
"""What is answered; the routes of Gradio that serve or take files, or fetch from elsewhere, are not among them."""
POLICY = (  # Gradio evaluates the templates of its components
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}
Scope = dict[str, Any]
Call = Callable[..., Any]


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine only."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; port 0 for any that is free.

    Raises: ValueError for a port that is taken, or an address that is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere it would share the port of another program
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is taken by another program" if taken else f"cannot be used ({error})"
        raise ValueError(
            f"port {port} of {host} {why}: choose another with --port, 0 for any that is free"
        ) from None
    return found


class Guard:
    """ASGI middleware that refuses other paths, other hosts and other origins, and adds a content security policy.

    Args:
        local: whether the server is bound to the loopback interface; then a request must name it as its host, so that
            no page of the web reaches it by a name of its own.
    """

    def __init__(self, app: Call, *, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope) if scope["type"] == "http" else 404
        if refusal is None:
            await self.app(scope, receive, guarded(send))
        elif scope["type"] == "http":
            head = {"type": "http.response.start", "status": refusal, "headers": list(HEADERS.items())}
            await send(head)
            await send({"type": "http.response.body", "body": b"refused"})
        else:
            await send({"type": "websocket.close"})

    def refusal(self, scope: Scope) -> int | None:
        """Return the status of a refused request, None for one that is answered."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.local and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return 403
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403
        path = scope["path"]
        known = path == "/" or path.startswith(FOLDERS) or path in (*PATHS, *CALLS)
        return None if known and ".." not in path.split("/") else 404


def guarded(send: Call) -> Call:
    """Return a function that sends a response with the headers of `HEADERS`."""

    async def sending(message: Scope) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in HEADERS]
            message = {**message, "headers": [*kept, *HEADERS.items()]}
        await send(message)

    return sending


def application(library: Library, host: str, port: int) -> Call:
    """Return the ASGI application."""
    import fastapi
    import gradio as gr

    from flowleap.app import interface

    whole = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    mounted = gr.mount_gradio_app(
        whole,
        interface.build(library),
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=0,
        theme=theme,
        css=markup.STYLE.read_text("utf-8"),
    )
    return Guard(mounted, local=is_loopback(host))


def serve(library: Library, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted.

    Args:
        ready: called with the address of the page.

    Raises: ValueError for a port that is taken, before anything heavy is imported.
    """
    with bound(host, port) as taken:
        os.environ.update(OFFLINE)
        import uvicorn

        port = taken.getsockname()[1]
        app = application(library, host, port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{port}/")
        server.run(sockets=[taken])
