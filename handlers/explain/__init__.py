"""Why the model answers what it answers: a map over the image of what speaks for a label.

::

    request.py    the fields of a request -> Ask
    explainer.py  image, prediction, Ask -> Explanation, with the method that this model allows
    program.py    the exported fp32 program, opened where its floats begin and at its last feature map
    methods.py    Captum's Grad-CAM, integrated gradients and occlusion; imported when first asked for
    budget.py     how many passes of the model fit into the time that an explanation may take
    picture.py    the map as pictures
    batch.py      explanations in a batch of requests: predictions are answered first
    early.py      the answer to a part of a batch, in TorchServe's protocol

Usable without a server:

>>> from marquee.handlers.explain.explainer import Explainer
>>> from marquee.handlers.explain.request import Ask
>>> explainer = Explainer(predictor)
>>> explanation = explainer.explain(pixels, prediction, Ask(), seconds=10)
"""
