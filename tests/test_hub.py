"""The Hugging Face hub: a stand-in of its HTTP interface on this machine; networks in folders."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from export_runs import run_folder
from flowleap import networks
from flowleap.cli import app

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("diffusers", minversion="0.42")

pytestmark = pytest.mark.slow


SHA = "0" * 40


def oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload asks for: models, commits, and large files by LFS."""

    models: dict[str, dict[str, bytes]]
    private: dict[str, bool]
    stored: dict[str, bytes]
    asked: list[str]

    def log_message(self, *given: Any) -> None:
        pass

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        place = self.path.split("?")[0].split("/")
        name, owner = "/".join(place[3:5]), "/".join(place[1:3])
        if name in self.models and "/tree/" in self.path:
            about = [(path, content) for path, content in self.models[name].items()]
            self._answer([{"type": "file", "path": p, "size": len(c), "oid": oid(c)} for p, c in about])
        elif self.path.startswith("/api/models/") and name in self.models:
            files = [{"rfilename": file} for file in self.models[name]]
            self._answer({"id": name, "sha": SHA, "private": self.private[name], "siblings": files})
        elif "/resolve/" in self.path and "/".join(place[5:]) in self.models.get(owner, {}):
            content = self.models[owner]["/".join(place[5:])]
            self.send_response(200)
            self.send_header("ETag", f'"{oid(content)}"')
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_PUT(self) -> None:
        self.asked.append(f"PUT {self.path}")
        self.stored[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        self.asked.append(f"POST {self.path}")
        place, body = self.path.split("?")[0], self._body()
        address = f"http://{self.headers['Host']}"
        if place == "/api/repos/create":
            given = json.loads(body)
            name = (
                f"{given['organization']}/{given['name']}"
                if given.get("organization")
                else f"someone/{given['name']}"
            )
            taken = name in self.models
            if not taken:
                self.models[name], self.private[name] = (
                    {},
                    given.get("visibility") == "private" or given.get("private") is True,
                )
            self._answer({"url": f"{address}/{name}"}, 409 if taken else 200)
        elif "/preupload/" in place:
            files = json.loads(body)["files"]
            large = (".safetensors", ".png")
            modes = {f["path"]: "lfs" if f["path"].endswith(large) else "regular" for f in files}
            about = [
                {"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()
            ]
            self._answer({"files": about})
        elif place.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            made = [
                {
                    "oid": o["oid"],
                    "size": o["size"],
                    "actions": {"upload": {"href": f"{address}/store/{o['oid']}"}},
                }
                for o in objects
            ]
            self._answer({"transfer": "basic", "objects": made})
        elif "/commit/" in place:
            name = "/".join(place.split("/")[3:5])
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.models[name][line["value"]["path"]] = self.stored[line["value"]["oid"]]
            self._answer({"success": True, "commitOid": SHA, "commitUrl": f"{address}/{name}/commit/{SHA}"})
        else:
            self._answer({})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kind = type("Fresh", (Hub,), {"models": {}, "private": {}, "stored": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    yield kind
    server.shutdown()
    server.server_close()


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["export", "diffusers", *map(str, words)])


def test_a_pipeline_is_uploaded_whole(tmp_path, hub):
    place, out = run_folder(tmp_path / "run"), tmp_path / "out"
    done = call(place, out, "--push-to-hub", "someone/digits", "--private", "--license", "mit")
    assert done.exit_code == 0, done.output
    assert hub.private == {"someone/digits": True}
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    sent = hub.models["someone/digits"]
    assert {name: content for name, content in sent.items() if name != ".gitattributes"} == files
    assert b'from_pretrained("someone/digits"' in sent["README.md"]
    assert "someone/digits" in done.stdout and "uploaded" in done.stdout
    assert set(hub.stored) >= {hashlib.sha256(files["samples.png"]).hexdigest()}


BY_ID = """
import torch
from diffusers import DiffusionPipeline
from flowleap import networks
from flowleap.export.diffusers import FlowleapPipeline

pipes = [
    DiffusionPipeline.from_pretrained("someone/digits", trust_remote_code=True),
    FlowleapPipeline.from_pretrained("someone/digits"),
    FlowleapPipeline.from_pretrained("out"),
]
assert type(pipes[0]).__module__.startswith("diffusers_modules")
first, *others = (pipe(3, 2, seed=3, output_type="latent").images for pipe in pipes)
assert all(torch.equal(first, other) for other in others)
bare = networks.DiT.from_pretrained("someone/digits").state_dict()
assert all(torch.equal(value, bare[name]) for name, value in networks.DiT.from_pretrained("out").state_dict().items())
"""


def test_what_is_on_the_hub_is_loaded_by_its_id(tmp_path, hub):
    """In a process of its own: huggingface_hub reads the address of the hub when it is imported."""
    place, out = run_folder(tmp_path / "run"), tmp_path / "out"
    assert call(place, out, "--push-to-hub", "someone/digits").exit_code == 0
    more = {
        "HF_ENDPOINT": huggingface_hub.constants.ENDPOINT,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", BY_ID],
        cwd=tmp_path,
        env=os.environ | more | {"HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_sent_without_being_asked(tmp_path, hub):
    assert call(run_folder(tmp_path / "run"), tmp_path / "out").exit_code == 0
    assert hub.asked == []


def test_a_name_that_exists_is_refused_before_any_work(tmp_path, hub):
    hub.models["someone/digits"], hub.private["someone/digits"] = {}, False
    done = call(run_folder(tmp_path / "run"), tmp_path / "out", "--push-to-hub", "someone/digits")
    assert done.exit_code == 2 and "has a model of this name" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists() and hub.models["someone/digits"] == {}
    done = call(tmp_path / "run", tmp_path / "out", "--push-to-hub", "digits")
    assert done.exit_code == 2 and "an id such as" in " ".join(done.stderr.split())


@pytest.mark.parametrize("kind", ["DiT", "UNet", "MLP"])
def test_a_network_is_saved_and_loaded(kind, tmp_path):
    options: Any = (
        {"shape": (2,), "width": 16} if kind == "MLP" else {"image": (1, 8, 8), "classes": 3, "width": 16}
    )
    options |= {"heads": 2} if kind == "DiT" else {}
    made = getattr(networks, kind)(**options)
    for weight in made.parameters():
        torch.nn.init.normal_(weight)
    made.save_pretrained(tmp_path / "saved")
    loaded = getattr(networks, kind).from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, getattr(networks, kind)) and loaded.config == made.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())
    again = type(loaded).from_pretrained(tmp_path / "saved")
    assert type(again) is type(loaded)


@pytest.mark.parametrize("method", ["meanflow", "ict"])
def test_the_network_of_a_pipeline(method, tmp_path):
    from flowleap.runs import load_run

    place = run_folder(tmp_path / "run", method)
    assert call(place, tmp_path / "out").exit_code == 0
    loaded = networks.DiT.from_pretrained(tmp_path / "out")
    own: Any = load_run(place).network
    own = own if method == "meanflow" else own.network
    x, t = torch.randn(3, 1, 8, 8), torch.full((3,), 0.5)
    assert torch.equal(loaded(x, t, t, torch.tensor([0, 1, 2])), own(x, t, t, torch.tensor([0, 1, 2])))
    with pytest.raises(ValueError, match=r"holds a DiT: load it with networks\.DiT"):
        networks.UNet.from_pretrained(tmp_path / "out")


def test_networks_are_imported_without_the_package_of_the_hub():
    script = "import sys; from flowleap import networks; print('huggingface_hub' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip()
        == "False"
    )
