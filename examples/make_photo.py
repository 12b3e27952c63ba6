"""Makes the demo's photo and its truth from a held-out scene:  python examples/make_photo.py SEED COLOR

The seed was chosen by hand among scenes whose sign of that colour cannot be read in the global view; the
scene itself is drawn
by `scenes/` from fonts and backgrounds that training never uses.
"""

from __future__ import annotations

import argparse
import json
import pathlib

from scenes.generator import encode_jpeg, make_scene, render

HERE = pathlib.Path(__file__).parent
SIZE = (4000, 3000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("color")
    arguments = parser.parse_args()
    scene = make_scene(arguments.seed, split="test", size=SIZE, canonical=True)
    sign = next(sign for sign in scene.signs if sign.color == arguments.color)
    about = f"What is written on the {sign.color} sign?"
    question = next(question for question in scene.questions if question.text == about)
    coarse = next(q for q in scene.questions if q.kind == "presence" and q.answer == "yes")
    truth = {
        "seed": scene.seed,
        "width": scene.width,
        "height": scene.height,
        "question": question.text,
        "answer": question.answer,
        "box": [round(edge, 1) for edge in sign.box],
        "text_height_in_global_view_px": round(scene.text_height_in_view(sign), 2),
        "coarse_question": coarse.text,
        "coarse_answer": coarse.answer,
    }
    (HERE / "photo.jpg").write_bytes(encode_jpeg(render(scene), scene.jpeg_quality))
    (HERE / "photo.json").write_text(json.dumps(truth, indent=2) + "\n")


if __name__ == "__main__":
    main()
