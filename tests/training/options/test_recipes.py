"""The recipes: values of the file, values of the command line, and no value without effect."""

import pytest
import torch
from cards import write_weights
from refusals import refuses

import cifarblocks
from cifarblocks.native.batch_norm import NativeBatchNorm2d
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.declared import DECLARED
from cifarblocks.training.options.parse import combine, read_options, read_recipe
from cifarblocks.training.options.recipes import RECIPES, as_arguments, load_recipes, recipe_of_family
from cifarblocks.training.run_folder.report import describe_run


def parse(*arguments):
    return read_options([str(argument) for argument in arguments])


@pytest.fixture
def answer(refused):
    """Expect that options are refused: answer("--lr", -1, named=["--lr", -1])."""
    return lambda *arguments, named: refused(read_options, arguments, "cifarblocks train: error", *named)


@pytest.mark.parametrize("name", load_recipes()[0])
def test_each_recipe_is_read_whole(name):
    recipe = load_recipes()[0][name]
    options = vars(parse("--recipe", name))
    for key, value in recipe.items():
        assert options[key.replace("-", "_")] == value, key
    assert options["recipe"] == name


# What was published: the learning rate and the batch it was used with.
@pytest.mark.parametrize(
    ("name", "rate", "batch", "epochs", "decay"),
    [
        ("resnet_cifar100_sgd_300_epochs", 0.1, 2048, 300, 5e-4),
        ("ghost_resnet_cifar100_sgd_300_epochs", 0.1, 2048, 300, 4e-5),
        ("improved_resnet20_convnext_cifar100_sgd_300_epochs", 0.05, 1024, 300, 1e-3),
        ("convnext_cifar100_adamw_300_epochs", 4e-3, 2048, 300, 0.05),
        ("mscan_and_mixer_cifar100_adamw_300_epochs", 1e-3, 2048, 300, 0.05),
        ("coatnet_csp_and_resnest_cifar100_adamw_300_epochs", 2e-4, 2048, 300, 0.05),
        ("coatnet_0_custom_enhanced_cifar100_adamw_300_epochs", 1e-3, 1024, 300, 0.05),
        ("coatnet_imagenet_adamw_300_epochs", 1e-3, 512, 300, 0.05),
        ("coatnet_imagenet_384_pixels_fine_tuning_30_epochs", 5e-5, 256, 30, 1e-8),
        ("small_networks_cifar10_adam_45_epochs", 1e-3, 128, 45, 0),
    ],
)
def test_the_published_recipes_train_as_published(name, rate, batch, epochs, decay):
    options = parse("--recipe", name)
    assert options.lr * options.batch_size / 256 == pytest.approx(rate)
    assert (options.batch_size, options.epochs, options.weight_decay) == (batch, epochs, decay)


def test_every_model_has_a_recipe_and_those_of_the_results_have_their_values():
    _, families = load_recipes()
    general = [model for model in cifarblocks.list_models() if recipe_of_family(model, families) == "any_network_sgd"]
    assert all(model.startswith(("cspdarknet", "ghostnet")) for model in general), general
    muon, sgd = (
        ("eca_resnet_20", "resnet_110", "ecanet20_adaptive"),
        ("ghost_resnet_20", "wrn_16_4", "resnest14d_cifar"),
    )
    for model in muon + sgd:
        options = parse("--model", model)
        values = (options.optimizer, options.lr, options.batch_size, options.label_smoothing, options.weight_decay)
        assert values == ("muon" if model in muon else "sgd", 0.8, 64, 0.1, 5e-4)
        assert (options.shift, options.epochs, options.warmup_epochs) == (3 / 32, 20, 1)
    assert parse("--model", "mlp").lr == 0.08
    recipes, _ = load_recipes()
    assert recipes["residual_networks_muon"] == {**recipes["residual_networks_sgd"], "optimizer": "muon"}
    assert parse("--model", "convnext_atto").optimizer == "muon_adamw"
    changed = {"optimizer": "muon_adamw", "lr": 0.016}
    assert recipes["attention_and_convnext_muon"] == {**recipes["attention_and_convnext_adamw"], **changed}


def test_a_default_that_a_recipe_may_replace_says_so():
    for name, told in DECLARED.items():
        of_recipe = told["kind"] == "recipe"
        if "(default: " in told["arguments"]["help"]:
            assert ("the recipe's" in told["arguments"]["help"]) == of_recipe, name


def test_what_is_typed_wins():
    options = parse("--recipe", "ghost_resnet_cifar100_sgd_300_epochs", "--lr", 0.3, "--policy", "none", "--no-mirror")
    assert (options.lr, options.policy, options.mirror, options.erasing) == (0.3, "none", False, 0.5)


def test_another_optimizer_does_not_inherit_the_rates_of_the_recipes():
    options = parse("--model", "eca_resnet_20", "--optimizer", "adamw")
    assert (options.lr, options.weight_decay, options.label_smoothing) == (1e-3, 0.05, 0.1)
    options = parse("--recipe", "coatnet_imagenet_adamw_300_epochs", "--final-lr", 0, "--optimizer", "sgd")
    assert (options.lr, options.weight_decay, options.eps) == (0.8, 5e-4, None)


def test_the_share_of_muon_is_known_where_muon_is():
    assert parse("--model", "eca_resnet_20").muon_share == 0.07
    assert parse("--model", "eca_resnet_20", "--muon-share", 0.2).muon_share == 0.2
    assert parse("--model", "eca_resnet_20", "--optimizer", "sgd").muon_share is None
    assert parse("--model", "vit_nano_cifar", "--optimizer", "muon_adamw").muon_share == 1


def test_the_share_of_a_recipe_is_left_behind_with_its_muon():
    recipe = {"optimizer": "muon", "muon_share": 0.2}
    assert combine(recipe, {})["muon_share"] == 0.2
    assert combine(recipe, {"optimizer": "sgd"})["muon_share"] is None


def test_a_warm_up_keeps_its_share_of_other_epochs():
    name = "coatnet_0_custom_enhanced_cifar100_adamw_300_epochs"
    assert parse("--recipe", name, "--epochs", 3).warmup_epochs == pytest.approx(0.1)
    assert parse("--recipe", name, "--epochs", 3, "--warmup-epochs", 1).warmup_epochs == 1


def test_the_models_rates_are_said_in_one_place():
    improved = ("--recipe", "improved_resnet20_convnext_cifar100_sgd_300_epochs")
    assert parse(*improved).drop_path == 0.05
    options = parse(*improved, "--model-argument", "drop_path=0.2")
    assert (options.drop_path, options.model_argument) == (None, {"drop_path": 0.2})


MINE = '[families]\n"*" = "mine"\n[recipes.mine]\n'


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (f"{MINE}warmup-epoch = 3", ["mine", "warmup-epoch", "warmup-epochs"]),
        (f'{MINE}model = "vit_tiny"', ["mine", "model"]),
        (f"{MINE}warmup_epochs = 1", ["mine", "warmup_epochs", "warmup-epochs"]),
        (f"{MINE}lr = [1, 2]", ["mine", "lr", "[1, 2]"]),
        (f"{MINE}lr = ", ["own.toml"]),
        ('[families]\n"*" = "other"\n[recipes.mine]\n', ["--recipe", "other"]),
        ('[families]\n"vit_*" = "mine"\n[recipes.mine]\n', ["--model", "eca_resnet_20", "families"]),
        ("[recipe.mine]\n", ["own.toml", "families", "recipe"]),
        ("recipes = 3\n", ["own.toml", "recipes", 3]),
        ('families = {"*" = 3}\n', ["own.toml", "families"]),
        (f"recipes = {'[' * 100_000}", ["own.toml", "brackets"]),
    ],
)
def test_what_recipes_may_not_say_is_named(tmp_path, content, named):
    path = tmp_path / "own.toml"
    path.write_text(content)
    with refuses(UserError, *named):
        read_recipe(None, "eca_resnet_20", path)


@pytest.mark.parametrize(
    ("line", "named"),
    [("lr = -1", ["mine", "--lr", 0, -1]), ('policy = "all"', ["mine", "--policy", "trivial", "all"])],
)
def test_values_of_recipes_are_read_as_options(tmp_path, refused, line, named):
    (tmp_path / "own.toml").write_text(MINE + line)
    refused(lambda _: read_recipe(None, "eca_resnet_20", tmp_path / "own.toml"), [], *named)


def test_an_unknown_recipe_is_answered_with_near_ones(answer):
    near = "resnet_cifar100_sgd_300_epochs"
    answer("--recipe", "resnet_cifar_sgd", named=["--recipe", "resnet_cifar_sgd", near])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--optimizer", "sgd", "--muon-share", 0.1), ["--muon-share", 0.1, "--optimizer", "sgd"]),
        (("--eps", 1e-6), ["--eps", 1e-6, "--optimizer", "muon"]),
        (("--model", "mlp", "--optimizer", "muon"), ["--optimizer", "muon", "mlp"]),
        (("--model", "patch_lstm", "--optimizer", "muon_adamw"), ["--optimizer", "muon_adamw", "patch_lstm"]),
        (("--schedule", "constant", "--final-lr", 0.1), ["--final-lr", 0.1, "--schedule", "constant"]),
        (("--mix-probability", 0.5), ["--mix-probability", 0.5, "--mixup", "--cutmix"]),
        (("--distillation", 0.5), ["--distillation", 0.5, "--teacher"]),
        (("--temperature", 2), ["--temperature", 2.0, "--teacher"]),
        (("--ema", 1), ["--ema", 1.0]),
        (("--layer-decay", 0), ["--layer-decay", 0.0]),
        (("--policy", "rand-2-31"), ["--policy", "trivial", "rand-2-31"]),
        (("--drop-path", 0.1, "--model-argument", "drop_path=0.1"), ["--drop-path", "--model-argument", "drop_path"]),
        (("--model", "cnn", "--drop-path", 0.1), ["--model", "cnn", "drop_path", 0.1]),
    ],
)
def test_values_that_do_not_go_together_are_refused(arguments, named, answer):
    answer(*arguments, named=named)


# Each option that a recipe may set, with a value that must change what a run comes to.
CHANGES = {
    "epochs": 2,
    "batch_size": 4,
    "optimizer": "adamw",
    "muon_share": 0.3,
    "eps": 0.1,
    "lr": 0.2,
    "final_lr": 0.01,
    "schedule": "constant",
    "warmup_epochs": 0.5,
    "layer_decay": 0.8,
    "weight_decay": 0.5,
    "clip": 0.01,
    "label_smoothing": 0.3,
    "drop_path": 0.9,
    "dropout": 0.9,
    "mirror": False,
    "shift": 0.4,
    "policy": "trivial",
    "erasing": 1,
    "mixup": 1,
    "cutmix": 1,
    "mix_probability": 0.3,
    "distillation": 0.2,
    "temperature": 1,
    "precision": "float32",
}
TAUGHT = ("--teacher", "teacher.safetensors")
COMPANIONS = {
    "eps": ("--optimizer", "adamw"),
    "mix_probability": ("--mixup", 1),
    "distillation": TAUGHT,
    "temperature": TAUGHT,
}
# These change how a run is computed, not what it comes to: other tests have them.
SAME_RESULT = {"accelerate", "accumulate", "ema", "sync_batchnorm", "gradient_checkpointing", "compile"}


def test_there_is_no_option_without_a_test():
    assert CHANGES.keys() | SAME_RESULT == {name for name, told in DECLARED.items() if told["kind"] == "recipe"}


@pytest.fixture(scope="module")
def weights_without():
    """The weights of runs that lack an option, by what else they were given."""
    return {}


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_changes_the_weights(name, fitted, weights_without, tmp_path):
    write_weights(tmp_path / "teacher.safetensors")
    companions = COMPANIONS.get(name, ())
    if companions not in weights_without:
        weights_without[companions] = fitted(*companions, "--name", "base").state.model.state_dict()
    value, option = CHANGES[name], name.replace("_", "-")
    arguments = (f"--no-{option}",) if value is False else (f"--{option}", value)
    changed = fitted(*companions, *arguments, "--name", "changed").state.model.state_dict()
    base = weights_without[companions]
    assert any(not torch.equal(tensor, changed[key].to(tensor.dtype)) for key, tensor in base.items())


def test_the_values_are_printed_and_recorded(prepared):
    run = prepared("--mixup", 0.3, "--name", "a")
    printed = describe_run(run.options, run.data, run.state.model, len(run.batches.training), run.processes)
    text = " ".join(printed.split())
    assert text.startswith(
        "recipe residual_networks_muon: epochs 1, batch-size 8, accumulate 1, optimizer muon, lr 0.1"
    )
    for name, value in run.options.recorded("recipe").items():
        assert value is None or f"{name.replace('_', '-')} {value}" in text
        assert run.record["options"][name] == value
    assert run.record["options"]["recipe"] == "residual_networks_muon"


def test_true_and_false_become_switches():
    assert as_arguments("a", {"mirror": True, "lr": 0.5}, ["lr", "mirror"]) == ["--mirror", "--lr=0.5"]
    with refuses(UserError, "a", "x", "lr"):
        as_arguments("a", {"x": 1}, ["lr"])
    assert read_recipe(None, "vit_tiny_cifar")["recipe"] == "attention_and_convnext_muon"
    assert RECIPES.name == "recipes.toml"


def test_layers_are_accelerated_on_a_cpu_unless_told_otherwise_and_a_resumed_run_stays_so(prepared):
    for name, arguments, words in (("a", (), "accelerated layers"), ("b", ("--no-accelerate",), "plain torch layers")):
        run = prepared("--name", name, *arguments)
        assert any(isinstance(part, NativeBatchNorm2d) for part in run.state.model.modules()) is (name == "a")
        assert words in describe_run(run.options, run.data, run.state.model, len(run.batches.training), run.processes)
        assert run.record["options"]["accelerate"] is (name == "a")
    with refuses(UserError, "runs/resnet_20/a", "accelerate", True, False):
        prepared("--name", "a", "--resume", "--no-accelerate")
