"""What options may say: each mistake is one line before any work. Recipes are built, not trained."""

import re

import pytest
import yaml
from torch import nn

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train import AudioData, AudioModule, EffectData, MusicData, SegmentationData
from wavedil.train.build import build
from wavedil.train.previews.images import ImagePreviews
from wavedil.train.previews.sound import SoundSamples
from wavedil.train.recipes import check_given_once, find_recipe, read_recipe
from wavedil.train.run import train

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, about combinations of options


OPTIONS = [
    ("--trainer.max_steps=0", "trainer.max_steps is 0"),
    ("--trainer.max_epochs=-2", "trainer.max_epochs is -2"),
    ("--trainer.max_time=3weeks", "max_time is '3weeks': expected a time above 0, e.g. 90s, 3min"),
    ("--trainer.max_time=1:00", "max_time is '1:00': expected a time above 0"),
    ("--trainer.max_time=90", "max_time is '90': expected a time above 0"),
    ("--trainer.max_time=0min", "max_time is '0min': expected a time above 0"),
    ("--model.optimizer.lr=fast", "--model.optimizer.lr is fast: expected a number$"),
    ("--model.optimizer=Adamm", "--model.optimizer: Adamm is not a known class: did you mean Adam?"),
    ("--trainer.precision=bf17", "--trainer.precision is bf17: expected an integer, .* bf16 or null"),
    ("--model.network.speakers=theo", "--model.network.speakers is theo: expected a list$"),
    ("--data.balance=speaker", "expected files, speakers or null; did you mean speakers"),
    ("--trainer.accelerator=gpuu", "trainer.accelerator is 'gpuu': expected one of auto, cpu, cuda"),
    ("--trainer.profiler=simpel", "trainer.profiler is 'simpel': expected one of simple"),
    ("--trainer.callbacks=EarlyStoping", "did you mean EarlyStopping"),
    ("--trainer.logger=CSVLoger", "--trainer.logger: CSVLoger is not a known class: did you mean CSVLogger"),
    ("--data.balance=3", "--data.balance is 3: expected files, speakers or null"),
    ("--trainer.max_time=00:00:00:00", "above 0"),
    ("--trainer.val_check_interval=0", "val_check_interval is 0"),
    ("--trainer.limit_val_batches=1.5", "limit_val_batches is 1.5"),
    ("--trainer.log_every_n_steps=0", "log_every_n_steps is 0"),
    ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches is 0"),
    ("--trainer.gradient_clip_val=-1", "gradient_clip_val is -1"),
    ("--trainer.precision=foo", "--trainer.precision is foo: .*32-true"),
    ("--trainer.default_root_dir=x", "--trainer.default_root_dir is 'x'.*--out"),
    ("--trainer={default_root_dir: x}", "--trainer.default_root_dir is 'x'.*--out"),
    ("--trainer.max_stepz=3", "did you mean --trainer.max_steps"),
    ("--data.rot=x", "--data.rot is unknown: did you mean --data.root"),
    ("--data.batchsize=x", "did you mean --data.batch_size"),
    ("--model.network.chanels=3", "did you mean --model.network.channels"),
    ("--temperature=1", "did you mean --samples.temperature"),
    ("--optimizer=torch.optim.SGD", "did you mean --model.optimizer"),
    ("--seed_everything=-1", "seed_everything is -1"),
    ("--model.network.channels=[1,2]", "--model.network.channels is .*: expected an integer"),
    ("--model.network.channels=true", "--model.network.channels is .*: expected an integer"),
    ("--model.optimizer.lr=-1", "^--model.optimizer: Invalid learning rate: -1"),
    ("--model.optimizer.lr=.inf", "lr is inf"),
    ("--model.optimizer.betas=[2,2]", "Invalid beta"),
    ("--model.network=wavedil.audio.Wavenet", "wavedil.audio.Wavenet"),
    (
        "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: a, patience: x}}]",
        "--trainer.callbacks.patience is x: expected an integer$",
    ),
    (
        "--trainer.callbacks+={class_path: wavedil.train.BlockSparsity, init_args: {outputs: [1]}}",
        r"--trainer.callbacks.outputs is \[1\]: expected an integer$",
    ),
    ("--trainer.callbacks=[nowhere.Thing]", "No module named 'nowhere'"),
    ("--previews.every=0", "every is 0: expected a positive integer"),
    ("--samples.seconds=.inf", "seconds is inf"),
    ("--data.valid_seconds=.nan", "valid_seconds is nan"),
    ("--data.num_workers=-1", "num_workers is -1"),
    ("--data={root: a, root: b}", "root"),
    ("word", "word is not an option"),
    ("--trainer.logger.foo=1", "^--trainer.logger.foo is unknown, since --trainer.logger names no class: give"),
    ("--trainer.profiler.foo=1", "^--trainer.profiler.foo is unknown, since --trainer.profiler names no class"),
    ("--trainer.strategy.foo=1", "^--trainer.strategy.foo is unknown: --trainer.strategy is a text$"),
    ("--trainer.callbacks=[EarlyStopping]", "^--trainer.callbacks: EarlyStopping needs monitor: add --trainer.callb"),
    (
        "--trainer.callbacks+={class_path: EarlyStopping, init_args: {monitor: a, mode: foo}}",
        r"^--trainer.callbacks\[0\]: EarlyStopping cannot be built: `mode` can be min, max, got foo$",
    ),
    (
        "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: a}},"
        " {class_path: wavedil.train.BlockSparsity, init_args: {sparsity: 5}}]",
        r"^--trainer.callbacks\[1\].sparsity is 5.0: expected a number above 0 and below 1$",
    ),
    ("--trainer.plugins=foo", "^--trainer.plugins: foo is not a known class: expected an import path"),
    ("--trainer.devices=-3", "^--trainer.devices: "),
    ("--model.network.channels=-3", "^--model.network.channels is -3: expected a positive integer up to"),
    ("--data.root=", "^--data.root is empty: expected a path"),
    ("--data={root: '', crop: 100}", "^--data.root is empty: expected a path"),
    ("--data.speakers=", "^--data.speakers is empty: expected a path"),
    ("--model.network.dilations=1..5x", "^--model.network.dilations: schedule '1..5x': '5x' is not an integer"),
    ("--model.network.dilations=[2,0,1]", "^--model.network.dilations: dilation of layer 2 is 0: expected an integer"),
    ("--model.network=Segmenter", "--model.network is Segmenter, which is a network of images: .* one of Effect, NAM"),
    ("--model.network.class_path=Dice", "^--model.network is Dice, which is a loss: expected an audio network"),
    ("--model.drop_condition=5", "^--model.drop_condition is 5.0: expected a number from 0 to 1$"),
]


@pytest.mark.parametrize(("option", "message"), OPTIONS, ids=[option for option, _ in OPTIONS])
def test_a_mistake_in_an_option_is_one_line(refusal, option, message):
    assert re.search(message, refusal(option)), refusal(option)


@pytest.mark.parametrize(
    ("recipe", "option", "message"),
    [
        ("amp", "--model.loss=AmpLos", "--model.loss: AmpLos is not a known class: did you mean AmpLoss"),
        ("camvid", "--model.backbone.norm_eps=x", "--model.backbone.norm_eps is x: expected a number or null"),
        ("camvid", "--model.backbone.nam=x", "--model.backbone.nam is unknown: did you mean --model.backbone.name"),
        ("tiny", "--model.head=wavedil.vision.Unet", "--model.head: wavedil.vision.Unet is .* did you mean UNet"),
        ("tiny", "--model.head=Unet", "--model.head: Unet is not a known class: did you mean UNet"),
        ("tiny", "--model.loss=wavedil.vision.Lovas", "did you mean Lovasz"),
        ("tiny", "--model.head=torch.nn.Conv2dd", "did you mean Conv2d"),
        ("tiny", "--model.head=json.dumps", "--model.head is json.dumps: expected a class, or a function that"),
        ("tiny", "--model.head={class_path: UNet, init_args: {foo: 1}}", "--model.head.foo is unknown: wavedil train"),
        ("amp", "--model.network.knobs=drive", "--model.network.knobs is drive: expected a dictionary or null"),
        ("jsb", "--model.network.channels=[1,a]", "--model.network.channels is .*: expected "),
        ("jsb", "--model.network=TCNN", "did you mean TCN"),
        ("jsb", "--model.network.activation=Relu", "activation is 'Relu': .*did you mean ReLU"),
        (
            "tiny",
            "--model.backbone=VGGFrontend",
            "VGGFrontend is not a known class: did you mean VGGFrontEnd",
        ),
        ("tiny", "--model.frozen=[heads]", r"frozen is \['heads'\]: .*did you mean head"),
        ("tiny", "--data.crop=[1]", r"--data.crop is \[1\]: expected a list with 2 elements"),
        ("depth", "--model.head=Conv1x1", "did you mean Conv1x1Head"),
        ("tiny", "--model.loss=Boundary", "did you mean BoundaryLoss"),
        (
            "volumes",
            "--data.augmentation=NormalizeIntensity",
            "--data.augmentation: NormalizeIntensity is not a known class of this option",
        ),
        ("volumes", "--model.normalization=CrossEntropy", "normalization is CrossEntropy: expected a module without"),
        (
            "volumes",
            "--model.normalization={class_path: torch.nn.Conv3d, init_args: {in_channels: 1, out_channels: 1, "
            "kernel_size: 1}}",
            "normalization is Conv3d: expected a module without weights",
        ),
        ("volumes", "--model.normalization={class_path: torch.nn.Flatten}", "normalization is Flatten: "),
        ("nam", "--model.lr_power=", "^--model.lr_power is empty: expected a value"),
        ("volumes", "--model.normalization=", "^--model.normalization is empty: expected a value"),
        (
            "volumes",
            "--data.augmentation={class_path: PatchAugmentation, init_args: {gamma: [2, 0.5]}}",
            r"^--data.augmentation.gamma is \[2.0, 0.5\]: ",
        ),
        (
            "volumes",
            "--model.normalization={class_path: ScaleIntensityRange, init_args: {a_min: 200, a_max: 100}}",
            "^--model.normalization.a_min is 200 and a_max 100: ",
        ),
        ("tiny", "--model.init=", "^--model.init is empty: expected a path"),
        ("depth", "--data.root=", "^--data.root is empty: expected a path"),
        ("amp", "--data.root=", "^--data.root is empty: expected a path"),
        (
            "tiny",
            "--model.head=CrossEntropy",
            "^--model.head is CrossEntropy, which is a loss: .* one of ASPP, Conv1x1",
        ),
        ("tiny", "--model.context=UNet", "^--model.context is UNet, which is a head: .* one of ContextModule$"),
        ("depth", "--model.backbone=wavedil.vision.ASPP", "^--model.backbone is ASPP, .* one of PixelUnshuffle, Small"),
        ("tiny", "--model.optimizer={class_path: Dice}", "^--model.optimizer is Dice, which is a loss: .* AdamW, "),
        ("amp", "--model.loss=torch.optim.SGD", "^--model.loss is SGD, which is an optimizer: expected a loss, one of"),
        (
            "tiny",
            "--model.loss={class_path: WeightedSum, init_args: {losses: [Dice, {class_path: UNet}]}}",
            "^--model.loss.losses is UNet, which is a head: expected a loss",
        ),
        ("tiny", "--data=AudioData", "^--data is AudioData, whose batches .* cannot use: expected SegmentationData$"),
        ("amp", "--model=VolumeData", "^--model is VolumeData, which is a data module: expected a training module"),
        ("tiny", "--model.head=Dicee", "--model.head: Dicee is not a known class: expected an import path"),
        (
            "tiny",
            "--model.loss={class_path: FocalLoss, init_args: {gamma: -4}}",
            "^--model.loss.gamma is -4.0: ",
        ),
    ],
)
def test_a_mistake_in_an_option_of_other_recipes_is_one_line(refusal, recipe, option, message):
    assert re.search(message, found := refusal(option, recipe=recipe)) and "Given" not in found, found


@pytest.mark.parametrize(
    ("recipe", "option", "message"),
    [
        ("speech", "--data.root=./nowhere/", "^--data.root: nowhere: no such folder; expected a folder with audio"),
        ("jsb", "--data.root=nowhere.mat", "^--data.root: nowhere.mat does not exist: expected a MATLAB file$"),
        ("isbi", "--seed_everything=1", "^--data.root: isbi is not a folder: expected a folder of images and masks$"),
        ("multilabel", "--data.root=nowhere", "^--data.root: nowhere/masks is not a folder: "),
        ("pluck", "--data.exclude=", "^--data.exclude is empty: expected a regular expression; leave it out for none$"),
        ("pluck", "--data.exclude=@", "^--data.exclude is '@': expected the name of a file after @"),
        (
            "multilabel",
            "--model.loss={class_path: BinaryCrossEntropy, init_args: {positive_weight: [1, 2]}}",
            "^--model.loss.positive_weight: positive_weight has 2 numbers: expected one for each of 3 classes$",
        ),
    ],
)
def test_errors_about_data_name_the_option(tmp_path, monkeypatch, recipe, option, message):
    monkeypatch.chdir(tmp_path)
    small = {"multilabel": ["--data.built_in_images=4"], "pluck": ["--data.built_in_seconds=12"]}.get(recipe, [])
    with pytest.raises(WavedilError, match=message):
        train(recipe, out="run", overrides=[option, *small, "--trainer.logger=false"])


@pytest.mark.parametrize(
    ("recipe", "option", "message"),
    [
        ("pluck", "--data.crop=2000000000", "data.batch_size is 1 and data.crop is 2000000000: needs about"),
        ("speech", "--data.batch_size=10000000", "data.batch_size is 10000000 and data.crop is .*: needs about"),
        ("tiny", "--data.crop=[1000000,1000000]", r"data.crop is \(1000000, 1000000\): needs about"),
    ],
)
def test_a_batch_larger_than_memory_is_refused_before_data_are_read(tmp_path, recipe, option, message):
    options = [option, "--data.root", str(tmp_path / "none"), "--trainer.logger=false"]
    with pytest.raises(WavedilError, match=f"{message}.* of memory and .* are free; reduce them"):
        train(recipe, out=str(tmp_path / "run"), overrides=options)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_windows_larger_than_memory_is_refused(tmp_path):
    options = ["--data.batch_size=100000000", "--data.built_in_seconds=3", "--trainer.logger=false"]
    with pytest.raises(WavedilError, match="data.batch_size is 100000000 and data.crop is 8000 with .* needs about"):
        train("amp", out=str(tmp_path / "run"), overrides=options)


@pytest.mark.parametrize(
    "error", [RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_memory_that_runs_out_is_one_line(tmp_path, small_recipe, monkeypatch, error):
    def training_step(*_):
        raise error

    monkeypatch.setattr(AudioModule, "training_step", training_step)
    with pytest.raises(WavedilError, match="memory ran out at step 1: reduce data.batch_size or data.crop"):
        train(small_recipe({}, {}, {"max_steps": 2}), out=str(tmp_path / "run"))


@pytest.mark.parametrize(
    "options",
    [
        ["--data.root=a", "--data.root=b"],
        ["--data.root", "a", "--data.init_args.root=a"],
        ["--trainer.max_steps=3", "--trainer", "{max_steps: 4}"],
        ["--data={class_path: wavedil.train.MusicData, init_args: {root: a}}", "--data.root=b"],
    ],
)
def test_the_shell_sets_a_key_once(options, capsys):
    assert main(["train", *options]) == 2
    assert "given twice" in capsys.readouterr().err


def test_keys_of_several_callbacks_are_set_for_each(tmp_path):
    add = "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"
    options = [add, "--trainer.callbacks.monitor=valid/bits", add, "--trainer.callbacks.monitor=train/bits"]
    check_given_once(options)
    build(find_recipe("pluck"), tmp_path, options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AudioData(crop=0), "crop is 0"),
        (lambda: AudioData(valid_seconds=float("nan")), "valid_seconds is nan"),
        (lambda: AudioData(batch_size=True), "batch_size is True"),
        (lambda: EffectData(context=-1), "context is -1"),
        (lambda: MusicData(transpose=88), "transpose is 88"),
        (lambda: SegmentationData(scales=(0.0, 1.0)), "scales is"),
        (lambda: SegmentationData(crop=(96, 0)), "crop is"),
        (lambda: ImagePreviews(every=0), "every is 0"),
        (lambda: SoundSamples(temperature=-1.0), "temperature is -1"),
        (lambda: AudioModule(nn.Identity(), ema_decay=1.0), "ema_decay is 1"),
    ],
)
def test_python_has_the_same_ranges(make, message):
    with pytest.raises(WavedilError, match=message):
        make()


@pytest.mark.parametrize(
    ("keys", "text", "value"),
    [
        ("model.backbone.weights", "null", None),
        ("model.backbone.norm_eps", "null", None),
        ("model.backbone.levels", "[2, 4]", [2, 4]),
        ("model.backbone.name", "resnet50d", "resnet50d"),
        ("model.loss.class_weights", "null", None),
        ("model.align", "null", None),
        ("data.classes", "null", None),
        ("data.ignore_label", "null", None),
        ("data.scale", "null", None),
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_options_of_parts_may_be_null(tmp_path, monkeypatch, keys, text, value, separate, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"--{keys}", text] if separate else [f"--{keys}={text}"]
    assert main(["train", "-c", "camvid", *words, "--print_config"]) == 0
    node = yaml.safe_load(capsys.readouterr().out)
    for key in keys.split("."):
        node = node.get("init_args", node)[key]
    assert node == value


HELP = [
    ["--print_config"],
    ["-c", "tiny", "-c", "tiny", "--print_config"],
    ["--print_config=skip_null", "--data.batch_size=2"],
    ["--data.help"],
    ["--data.help", "wavedil.train.AudioData"],
    ["--data.help=wavedil.train.AudioData"],
    ["--model.help"],
    ["--model.network.help=wavedil.audio.WaveNet"],
    ["--trainer.help"],
    ["--previews.help"],
    ["--samples.help"],
]


@pytest.mark.parametrize("options", HELP, ids=" ".join)
def test_a_recipe_can_be_looked_at(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *options]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--data.help=nowhere.Thing", "--foo.help", "--model.optimizer.help=foo"])
def test_help_of_nothing_is_one_line(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    assert main(["train", option]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("recipe", ["pluck", "amp", "tiny"])
def test_a_printed_config_is_a_recipe_with_comments(tmp_path, capsys, recipe):
    train(recipe, overrides=["--print_config", "--data.seed=3"])
    text = capsys.readouterr().out
    assert re.search(r"^    seed: 3  # seed of the \w+$", text, re.M) and re.search(
        r"^  max_steps: \d+  # maximum number of training steps", text, re.M
    )
    assert all(len(line) <= 120 for line in text.splitlines())
    (tmp_path / "printed.yaml").write_text(text)
    cli = build(tmp_path / "printed.yaml", tmp_path, [])
    expected = build(find_recipe(recipe), tmp_path, ["--data.seed=3"])
    assert cli.parser.dump(cli.config) == expected.parser.dump(expected.config)


@pytest.mark.parametrize("recipe", ["pluck", "nam", "jsb", "tiny", "depth"])
def test_the_help_of_a_recipe_has_its_keys(capsys, recipe):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "-c", recipe, "--help"])
    text = capsys.readouterr().out
    for key in ("data.root", "model.optimizer.lr", "previews.every", "samples.num", "trainer.max_time"):
        assert re.search(rf"^  --{re.escape(key)} +\w", text, re.M)
    value = read_recipe(find_recipe(recipe))[0]["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    assert re.search(rf"--model.optimizer.lr +learning rate[^;]*; +{value}\)", text)
