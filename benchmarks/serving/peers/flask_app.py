"""Flask as an article shows it: POST /predict with the pixels as JSON lists, one image a call, no batching."""

import torch
from flask import Flask, request
from torchvision.transforms.functional import normalize

from benchmarks.serving.peers.place import Eager, read_place

app = Flask(__name__)
place = read_place()
model = Eager(place.material)


@app.post("/predict")
def predict() -> dict[str, float]:
    """``{"image_data": 224 x 224 x 3 integers}`` -> the likeliest five."""
    pixels = torch.tensor(request.get_json()["image_data"], dtype=torch.float32).permute(2, 0, 1) / 255
    batch = normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).unsqueeze(0)
    return model.answer_tensors(batch)[0]


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=place.port)
