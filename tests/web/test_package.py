"""The npm package as its users get it: packed, unpacked beside sharp, typed, before a real server in Node."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from tests.web.conftest import PHOTO, ROOT, TRUTH

TOOLS = ROOT / "tests" / "web" / "node_modules"
FORMATS = ROOT / "tests" / "edge_client" / "formats" / "files"
ASKED = """
import { EdgeClient } from "second-glance";
const [url, path, question] = process.argv.slice(2);
const [steps, told] = [[], ["", "", ""]];
const onStep = (step) => steps.push(step.kind);
const onToken = ({ stage, text }) => (told[stage] += text);
const reply = await new EdgeClient({ url }).ask(path, question, { onStep, onToken });
console.log(JSON.stringify({ ...reply.to_dict(), steps, told }));
"""
DRAWN = """
const [module, path, region, width, height] = process.argv.slice(2);
const { SharpPicture } = await import(module);
const picture = await SharpPicture.open(path, 2 ** 28);
const drawn = await picture.draw(JSON.parse(region), { width: Number(width), height: Number(height) });
process.stdout.write(await drawn.write("image/png", null));
"""
TYPED = """
import { BusyError, EdgeClient, type Reply } from "second-glance";

export async function ask(photo: Blob, signal: AbortSignal): Promise<string | null> {
  const client = new EdgeClient({ url: "https://glance.example", apiKey: "key", settings: { retries: 1 } });
  try {
    const reply: Reply = await client.ask(photo, "What is it?", { mode: "always", timeout_s: 9.5, signal });
    return reply.roi === null ? reply.answer : `${reply.roi.pixels.left}: ${reply.degraded ?? reply.answer}`;
  } catch (error) {
    if (error instanceof BusyError) return `${error.retry_after_s?.toFixed()} s`;
    throw error;
  }
}
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has installed the package and sharp."""
    folder = tmp_path_factory.mktemp("project")
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
    environment = {**os.environ, "PATH": f"{TOOLS / '.bin'}:{os.environ['PATH']}"}
    subprocess.run(command, cwd=ROOT / "edge_web", env=environment, check=True, timeout=120)
    (folder / "node_modules").mkdir()
    for package in TOOLS.iterdir():
        (folder / "node_modules" / package.name).symlink_to(package)
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        packed.extractall(folder, filter="data")
    (folder / "package").rename(folder / "node_modules" / "second-glance")
    return folder


def node(project: Path, script: str, *arguments: str) -> bytes:
    (project / "script.mjs").write_text(script)
    ran = subprocess.run(["node", "script.mjs", *arguments], cwd=project, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout


def test_it_asks_about_a_file_in_node(project: Path, url: str) -> None:
    reply: dict[str, Any] = json.loads(node(project, ASKED, url, str(PHOTO), TRUTH["question"]))
    assert (reply["answer"], reply["stage"], reply["degraded"]) == (TRUTH["answer"], 2, None)
    assert [text.strip() for text in reply["told"][1:]] == [reply["draft_answer"], TRUTH["answer"]]
    box, (x0, y0, x1, y1) = reply["roi"]["pixels"], TRUTH["box"]
    assert box["left"] <= x0 < x1 <= box["right"]
    assert box["top"] <= y0 < y1 <= box["bottom"]
    receipt = reply["receipt"]
    assert receipt["original_bytes"] == PHOTO.stat().st_size
    assert receipt["stage2"]["uplink_bytes"] == reply["usage"]["received_bytes"], "as the server counts"
    assert receipt["uplink_bytes"] * 100 < receipt["original_bytes"]
    assert reply["steps"].count("send") == receipt["requests"] == 3


def test_a_file_that_is_no_picture_is_said_so_in_node(project: Path, url: str) -> None:
    script = ASKED.replace("const reply", "try {\nconst reply").strip() + (
        "\n} catch (error) { console.log(error.name, error.message); }"
    )
    for path in (ROOT / "LICENSE", ROOT / "not there.jpg"):
        assert node(project, script, url, str(path), "What?").startswith(b"BadImageError the picture cannot")


def noisy(mode: str) -> Image.Image:
    """Fine detail everywhere, where filters differ most; from a seed."""
    coarse = np.random.default_rng(7).integers(0, 256, (140, 200, len(mode)), dtype=np.uint8)
    return Image.fromarray(coarse.squeeze()).resize((1001, 703), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("region", [None, (0.3, 0.25, 0.95, 0.99), (0.3, 0.25, 0.375, 0.35)])
@pytest.mark.parametrize("kind", ["photo", "jpeg", "turned", "png", "transparent", "grey", "wide gamut"])
def test_pixels_in_node_are_the_python_edges(
    project: Path, tmp_path: Path, kind: str, region: tuple[float, ...] | None
) -> None:
    """Before encoding, mean absolute difference in levels. Sharp reads CMYK otherwise, and no BMP or HEIC."""
    file = {"photo": PHOTO, "wide gamut": FORMATS / "display-p3.jpg"}.get(kind, tmp_path / "picture")
    if kind in ("jpeg", "turned"):
        exif = Image.Exif()
        exif[0x0112] = 6 if kind == "turned" else 1
        noisy("RGB").save(file, "JPEG", quality=92, exif=exif)
    elif file.parent == tmp_path:
        noisy({"transparent": "RGBA", "grey": "L"}.get(kind, "RGB")).save(file, "PNG")
    budget = PixelBudget(max_width=448, max_height=336)
    with Original(file) as original:
        named = None
        if region is not None:
            sides = zip(("left", "top", "right", "bottom"), region, original.size * 2, strict=True)
            named = {side: int(share * whole) for side, share, whole in sides}
        made = original.patch(tuple(named.values()), budget) if named else original.global_image(budget)
    module = str(project / "node_modules" / "second-glance" / "src" / "sharp.js")
    png = node(project, DRAWN, module, str(file), json.dumps(named), str(made.width), str(made.height))
    drawn = Image.open(io.BytesIO(png))
    assert (drawn.mode, drawn.size) == ("RGB", made.size)
    off = float(np.abs(np.asarray(drawn, float) - np.asarray(made.convert("RGB"), float)).mean())
    print(f"{kind}: off by {off:.3f} levels")
    assert off <= 2


@pytest.mark.parametrize("is_right", [True, False])
def test_its_types_are_checked(project: Path, is_right: bool) -> None:
    text = TYPED if is_right else TYPED.replace('"always"', '"never"')
    (project / "typed.ts").write_text(text)
    options = ["--strict", "--noEmit", "--lib", "dom,esnext", "--module", "nodenext", "--target", "es2022"]
    command = [str(TOOLS / ".bin" / "tsc"), *options, "--ignoreConfig", "--types", "", "typed.ts"]
    ran = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert (ran.returncode == 0) == is_right, ran.stdout
    assert is_right or '"never"' in ran.stdout
