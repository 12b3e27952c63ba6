"""`make demo`: the main job, once, for real.

Starts a server with the embedded model, asks about a 12-megapixel photo over HTTP as an edge would, prints
both answers and the byte receipt, and leaves an annotated picture in `out/`. The photo is a held-out scene:
its fonts and its kind of background were never trained on (`examples/photo.json` has the truth).
"""

from __future__ import annotations

import json
import pathlib
import sys

from rich.console import Console
from rich.table import Table

from secondglance import EdgeClient, Reply
from secondglance.settings import EdgeSettings
from secondglance.show.answer_sheet import draw_picture
from secondglance_server.testing import serving

HERE = pathlib.Path(__file__).parent
PHOTO = HERE / "photo.jpg"
PICTURE = HERE.parent / "out" / "demo.png"


def receipt_table(reply: Reply) -> Table:
    table = Table(title="What went over the wire (bytes, headers included)")
    for column in ("", "uplink", "downlink", "ms"):
        table.add_column(column, justify="right")
    receipt = reply.receipt
    stages = (
        ("GET /v1/model", receipt.setup),
        ("stage 1: global image", receipt.stage1),
        ("stage 2: the region", receipt.stage2),
    )
    for name, stage in stages:
        if stage is not None:
            table.add_row(
                name, f"{stage.uplink_bytes:,}", f"{stage.downlink_bytes:,}", f"{stage.elapsed_ms:.0f}"
            )
    table.add_row(
        "together", f"{receipt.uplink_bytes:,}", f"{receipt.downlink_bytes:,}", f"{receipt.elapsed_ms:.0f}"
    )
    return table


def main() -> int:
    truth = json.loads((HERE / "photo.json").read_text())
    console = Console(width=100)
    size = f"{truth['width']} x {truth['height']} px, {PHOTO.stat().st_size:,} bytes"
    console.print(f"{PHOTO.name}: {size}. {truth['question']}")
    console.print("starting a server with the embedded model ...")
    PICTURE.parent.mkdir(exist_ok=True)
    with serving() as url, EdgeClient(url) as client:
        reply = client.ask(PHOTO, truth["question"])
    limit = EdgeSettings().max_original_pixels
    draw_picture(PHOTO, truth["question"], reply, max_original_pixels=limit).save(PICTURE)
    first, last = reply.draft_confidence, reply.confidence
    threshold = f"(threshold {first.threshold:.2f})"
    console.print(f"stage 1: {reply.draft_answer!r}, min-entropy {first.min_entropy:.2f} nats {threshold}")
    if reply.roi is not None:
        console.print(f"the server asked for pixels {reply.roi.pixels.model_dump()}")
    shown = f"stage {reply.stage}: {reply.answer!r}, min-entropy {last.min_entropy:.2f} nats"
    console.print(f"{shown}; on the sign: {truth['answer']!r}")
    console.print(receipt_table(reply))
    share = (reply.receipt.original_bytes or 0) / reply.receipt.uplink_bytes
    console.print(f"the original would have been {share:.0f} times as many bytes")
    console.print(f"picture: {PICTURE.relative_to(HERE.parent)}")
    if reply.stage != 2 or reply.answer != truth["answer"]:
        console.print("this is not the answer that a second glance should have given")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
