#!/bin/sh
# Both stages of an inference with plain curl, against a running server:
#
#     examples/two_stages.sh [URL [PHOTO [QUESTION]]]
#
# Python reads JSON and, with Pillow, resizes and crops, as the edge would. Without PHOTO the script asks about
# examples/photo.jpg. It asks with mode "always", so that a second stage follows even a sure answer. Set
# SECONDGLANCE_API_KEY if the server wants a key.
set -eu

url=${1:-${SECONDGLANCE_URL:-http://127.0.0.1:8000}}
photo=${2:-$(dirname "$0")/photo.jpg}
question=${3:-What is written on the red sign?}
key=${SECONDGLANCE_API_KEY:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# field FILE KEY...: one value out of a JSON file
field() {
    python3 -c 'import functools, json, sys
value = functools.reduce(lambda node, key: node[key], sys.argv[2:], json.load(open(sys.argv[1])))
print(value)' "$@"
}

call() {
    curl --silent --show-error --fail-with-body ${key:+--header "Authorization: Bearer $key"} "$@"
}

# What the model can use.
call "$url/v1/model" > "$work/model.json"

# Stage one: the small global image, and the size of the original as a viewer shows it.
python3 -c 'import json, sys
from PIL import Image, ImageOps
photo, width, height, question, out = sys.argv[1:]
original = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
small = original.copy()
small.thumbnail((int(width), int(height)))
small.save(f"{out}/global.jpg", quality=85)
size = {"width": original.width, "height": original.height}
json.dump({"question": question, "image": size, "mode": "always"}, open(f"{out}/request.json", "w"))' \
    "$photo" "$(field "$work/model.json" image max_width)" "$(field "$work/model.json" image max_height)" \
    "$question" "$work"
call "$url/v1/inferences" \
    --form "request=@$work/request.json;type=application/json" \
    --form "image=@$work/global.jpg;type=image/jpeg" > "$work/first.json"
echo "stage 1: $(field "$work/first.json" status), draft answer: $(field "$work/first.json" answer)"
[ "$(field "$work/first.json" status)" = needs_patch ] || exit 0

# Stage two: the pixels asked for, cut from the original.
python3 -c 'import json, sys
from PIL import Image, ImageOps
photo, out = sys.argv[1:]
reply = json.load(open(f"{out}/first.json"))
box, offer = reply["roi"]["pixels"], reply["patch"]
original = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
crop = original.crop((box["left"], box["top"], box["right"], box["bottom"]))
crop.thumbnail((offer["max_width"], offer["max_height"]))
crop.save(f"{out}/patch.jpg", quality=90)' "$photo" "$work"
call --request PUT --header "Content-Type: image/jpeg" --data-binary "@$work/patch.jpg" \
    "$url$(field "$work/first.json" patch url)" > "$work/second.json"
echo "stage 2: $(field "$work/second.json" status), answer: $(field "$work/second.json" answer)"
sent=$(($(wc -c < "$work/global.jpg") + $(wc -c < "$work/patch.jpg")))
echo "sent $sent bytes of images instead of $(wc -c < "$photo" | tr -d ' ')"
