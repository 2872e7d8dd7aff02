"""Context modules on frozen front ends, for docs/measurements.md: python docs/compare_context.py DIR FRONT_END ...

DIR has train/ and val/ with images and masks, each FRONT_END is the folder of a model without context module. Its
scores of all training images and of their mirror images are computed once; context modules are then trained on them for
the same number of steps each. Prints the mean IoU on the images of val.
"""

import argparse
import time
from pathlib import Path

import torch
from tap_kinds import replace_taps, train
from torch import Tensor, nn

from wavedil.core import fold_dilations
from wavedil.vision import ConfusionMatrix, ContextModule, CrossEntropy, DenseCRF, Segmenter
from wavedil.vision.data.dataset import SegmentationDataset
from wavedil.vision.data.pairs import find_pairs
from wavedil.weights import load

BATCH = 4
FRONT_END = "front end"
#: Arguments of the context module, its taps, and the learning rate.
MODULES = {
    "basic": ({}, "regular", 2e-3),
    "basic, random initialization": ({"init": "random"}, "regular", 2e-3),
    "basic, learned taps": ({}, "learned", 2e-3),
    "basic, merged branches": ({}, "mergeable", 2e-3),
    "large": ({"variant": "large"}, "regular", 1e-3),
}


class Scores:
    """Scores ``(num_classes, height, width)`` of a front end at its stride, and labels ``(height, width)``."""

    def __init__(self, model: Segmenter, folder: Path, mirror: bool):
        self.model, self.items = model, []
        self.dataset = SegmentationDataset(find_pairs(folder), model.label_scheme, model.scale)
        with torch.inference_mode():
            for index in range(len(self.dataset)):
                item = self.dataset[index]
                for flip in (False, True) if mirror else (False,):
                    image, labels = (x.flip(-1) if flip else x for x in (item["image"], item["labels"]))
                    scores, stride = model.coarse_scores(image[None])
                    self.items.append((scores[0].clone(), labels.byte(), stride))

    def at_pixels(self, context: nn.Module, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Scores after the context module ``(batch, num_classes, height, width)``, and labels."""
        scores, labels = (torch.stack([self.items[i][part] for i in numbers]) for part in (0, 1))
        # upsample_scores reads the size of the image only
        return self.model.upsample_scores(labels[:, None], context(scores), self.items[0][2]), labels.long()

    @torch.inference_mode()
    def mean_iou(self, context: nn.Module, crf: DenseCRF | None = None) -> float:
        matrix = ConfusionMatrix(self.model.num_classes)
        for index in range(len(self.items)):
            scores, labels = self.at_pixels(context, [index])
            if crf is not None:
                image = (self.dataset[index]["image"].permute(1, 2, 0) * 255).round().byte().contiguous()
                scores = crf(image.numpy(), scores[0].softmax(0))[None]
            matrix.update(scores.argmax(1), labels)
        return 100 * matrix.mean_iou


def make_context(num_classes: int, options: dict, kind: str) -> ContextModule:
    context = ContextModule(num_classes, **options)
    replace_taps(context.stack.layers, kind)
    if kind == "mergeable":  # at first only the dilated branches, which pass the normalized scores through
        for layer, source in zip(context.stack.layers, ContextModule(num_classes).stack.layers, strict=True):
            (conv, _), (_, other) = layer.conv.branches
            conv.weight.data.copy_(source.conv.weight)
            nn.init.zeros_(other.weight)
    return context


def train_context(context: ContextModule, scores: Scores, loss: nn.Module, lr: float, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def loss_of_step(step: int) -> Tensor:
        numbers = torch.randint(len(scores.items), (BATCH,), generator=generator).tolist()
        return loss(*scores.at_pixels(context, numbers))

    train(context, steps, lr, 1.0, loss_of_step)


def compare(folder: str, seed: int, data: Path, steps: int, modules: list[str], refined: list[str]) -> None:
    model = load(folder, expect=Segmenter).eval()
    training, held_out = Scores(model, data / "train", mirror=True), Scores(model, data / "val", mirror=False)
    loss = CrossEntropy("sqrt_median_frequency")
    loss.set_frequencies(training.dataset.count_labels())

    def report(name: str, context: nn.Module, seconds: float = 0.0) -> None:
        crf = f", CRF {held_out.mean_iou(context, DenseCRF()):.2f}" if name in refined else ""
        text = f"{folder}, {name}: mean IoU {held_out.mean_iou(context):.2f}{crf}"
        print(f"{text}, {seconds:.0f} s of CPU time", flush=True)

    report(FRONT_END, nn.Identity())
    for name in modules:
        options, kind, lr = MODULES[name]
        torch.manual_seed(seed)
        context = make_context(model.num_classes, options, kind).eval()
        report(f"{name}, before training", context)
        start = time.process_time()
        train_context(context.train(), training, loss, lr, steps, seed)
        seconds = time.process_time() - start
        report(name, fold_dilations(context.eval()), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("front_ends", nargs="+")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--modules", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--crf", nargs="*", choices=[FRONT_END, *MODULES], default=[FRONT_END, "basic", "large"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed, folder in enumerate(arguments.front_ends):
        compare(folder, seed, arguments.data, arguments.steps, arguments.modules, arguments.crf)


if __name__ == "__main__":
    main()
