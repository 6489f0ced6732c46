"""Every named network has exactly the size of its paper, or of the network that the name stands for."""

import pytest
from networks import ONE_A_KIND, on_meta
from tools import slow

import cifarblocks

IMAGENET = {"num_classes": 1000, "image_size": 224}

# name, arguments, parameters, and where they are known multiply-adds of one image
COUNTS = [
    ("resnet_20", {}, 278_324, 40_818_944),
    ("resnet_32", {}, 472_756, 69_130_496),
    ("resnet_44", {}, 667_188, None),
    ("resnet_56", {}, 861_620, 125_753_600),
    ("resnet_110", {}, 1_736_564, None),
    ("resnet_20", {"num_classes": 10, "shortcut": "A"}, 269_722, None),
    ("resnet_32", {"num_classes": 10, "shortcut": "A"}, 464_154, None),
    ("resnet_44", {"num_classes": 10, "shortcut": "A"}, 658_586, None),
    ("resnet_56", {"num_classes": 10, "shortcut": "A"}, 853_018, None),
    ("resnet_110", {"num_classes": 10, "shortcut": "A"}, 1_727_962, None),
    ("eca_resnet_20", {}, 278_351, None),
    ("eca_resnet_32", {}, 472_831, None),
    ("eca_resnet_56", {}, 861_701, None),
    ("ecanet20_fixed_k3", {}, 278_351, None),
    ("ecanet20_fixed_k5", {}, 278_369, None),
    ("ecanet20_fixed_k7", {}, 278_387, None),
    ("ecanet20_fixed_k9", {}, 278_405, None),
    ("ecanet20_adaptive", {}, 278_351, None),
    ("resnet20_no_eca", {}, 278_324, None),
    ("eca_resnet20_pos1", {}, 278_351, None),
    ("eca_resnet20_pos2", {}, 278_351, None),
    ("eca_resnet20_pos3", {}, 278_351, None),
    ("resnet_18", {"num_classes": 10}, 11_173_962, None),
    ("resnet_18", {"stem": "imagenet"}, 11_227_812, None),
    ("resnet_34", {"num_classes": 1000, "stem": "imagenet"}, 21_797_672, None),
    ("resnet_50", {"stem": "imagenet"}, 23_712_932, None),
    ("mlp", {"num_classes": 10}, 1_707_274, None),
    ("cnn", {"num_classes": 10}, 1_147_914, None),
    ("resnext_29_32x4d", {}, 4_868_004, 774_148_096),
    ("resnext_29_8x64d", {}, 34_518_948, 5_387_358_208),
    ("resnext18_dropout", {}, 646_628, 10_494_976),
    ("resnext18_dropout", {"num_classes": 5, "stages": 4}, 1_977_733, None),
    ("resnext18_dropout", {"num_classes": 5, "stages": 5, "image_size": 64}, 3_594_117, None),
    ("wrn_16_4", {}, 2_772_020, 392_635_392),
    ("wrn_28_10", {}, 36_536_884, 5_243_386_368),
    ("ghostnet_050", {}, 1_434_392, None),
    ("ghostnet_100", {}, 4_029_608, None),
    ("ghostnet_130", {}, 6_205_920, None),
    ("ghostnet_100_cifar", {}, 4_029_080, 42_795_584),
    ("ghost_resnet_20", {}, 147_716, 21_539_072),
    ("ghost_resnet_20", {"ratio": 3}, 107_636, None),
    ("ghost_resnet_20", {"ratio": 4}, 82_412, None),
    ("ghost_resnet_20", {"ratio": 1}, 278_324, None),
    ("ghost_resnet_20", {"cheap": "copy"}, 144_020, None),
    ("ghost_resnet_32", {}, 247_396, 36_210_944),
    ("convnext_atto", {}, 3_406_620, None),
    ("convnext_femto", {}, 4_871_284, None),
    ("convnext_pico", {}, 8_583_972, None),
    ("convnext_nano", {}, 15_016_660, None),
    ("convnext_tiny", {}, 27_897_028, None),
    ("convnext_atto_cifar", {}, 3_251_580, 64_354_560),
    ("convnext_tiny_cifar", {}, 27_008_836, 534_070_272),
    ("improved_resnet20_convnext", {}, 174_868, 34_191_616),
    ("improved_resnet20_convnext", {"convolution": "dense_3x3"}, 1_887_892, None),
    ("improved_resnet20_convnext", {"expansion": 1}, 38_644, None),
    ("segnext_mscan_tiny", {}, 3_929_284, None),
    ("segnext_mscan_small", {}, 13_501_476, None),
    ("segnext_mscan_base", {}, 26_329_124, None),
    ("segnext_mscan_tiny_cifar", {}, 3_929_284, 95_050_240),
    ("segnext_mscan_tiny_cifar", {"strips": [3, 5]}, 3_826_884, None),
    ("lsknet_tiny", {}, 4_015_890, None),
    ("lsknet_small", {}, 13_892_192, None),
    ("lsknet_tiny_cifar", {}, 4_012_050, 95_040_704),
    ("mlp_mixer_s16", {}, 18_066_564, None),
    ("mlp_mixer_s16", IMAGENET, 18_528_264, 3_776_958_464),
    ("mlp_mixer_b16", {}, 59_188_372, None),
    ("mlp_mixer_b16", IMAGENET, 59_880_472, 12_601_767_936),
    ("mlp_mixer_tiny", {}, 1_341_924, 101_069_312),
    ("mlp_mixer_cifar", {}, 4_384_100, 302_801_920),
    ("cspresnet50", {}, 20_693_668, None),
    ("cspresnext50", {}, 18_725_796, None),
    ("cspdarknet53", {}, 26_719_684, None),
    ("cspresnet50_cifar", {}, 20_685_988, 1_092_390_912),
    ("cspresnet_nano_cifar", {}, 2_943_908, 155_063_808),
    ("resnest14d", {}, 8_767_588, None),
    ("resnest26d", {}, 15_225_348, None),
    ("resnest50d", {}, 25_639_140, None),
    ("resnest14d_cifar", {}, 8_767_588, 810_063_872),
    ("resnest50d_cifar", {}, 25_639_140, 1_667_065_856),
    ("resnest_nano_cifar", {}, 3_871_380, 274_225_152),
    ("coatnet_0", {}, 24_344_720, None),
    ("coatnet_1", {}, 41_533_676, None),
    ("coatnet_2", {}, 73_762_244, None),
    ("coatnet_1", IMAGENET, 42_225_776, 8_238_879_744),
    ("coatnet_2", IMAGENET, 74_684_744, 15_502_290_944),
    ("coatnet_0_custom_enhanced", {}, 25_663_280, None),
    ("coatnet_0_cifar", {}, 24_308_720, 1_200_233_472),
    ("coatnet_nano_cifar", {}, 4_206_754, 278_421_504),
    ("coatnet_cifar_opt", {}, 3_191_235, 277_860_608),
    ("coatnet_cifar_opt_large_stem", {}, 3_194_307, 281_006_336),
    ("hornet_tiny", {}, 21_947_812, None),
    ("hornet_tiny_gf", {}, 22_530_148, None),
    ("hornet_small", {}, 48_836_164, None),
    ("hornet_small_gf", {}, 49_709_668, None),
    ("hornet_nano_cifar", {}, 4_715_420, 93_190_400),
    ("hornet_tiny_cifar", {}, 21_552_292, 397_920_256),
    ("vit_tiny_16", {}, 5_543_716, None),
    ("vit_tiny_16", IMAGENET, 5_717_416, 1_253_683_200),
    ("vit_b_16", {}, 85_875_556, None),
    ("vit_b_16", IMAGENET, 86_567_656, 17_563_828_224),
    ("vit_tiny_cifar", {}, 5_380_132, 365_124_864),
    ("vit_nano_cifar", {}, 2_710_948, 182_866_944),
    ("nano_vit", {"num_classes": 10}, 1_242_442, None),
    ("patch_lstm", {"num_classes": 10}, 2_536_842, None),
]

# name, arguments, multiply-adds of one image of another size
MULTIPLY_ADDS = [
    ("resnet_20", {"shortcut": "A"}, 40_556_800),
    ("resnet_32", {"shortcut": "A"}, 68_868_352),
    ("resnet_44", {"shortcut": "A"}, 97_179_904),
    ("resnet_56", {"shortcut": "A"}, 125_491_456),
    ("resnet_110", {"shortcut": "A"}, 252_893_440),
    ("resnet_18", {"num_classes": 1000, "stem": "imagenet", "image_size": 224}, 1_814_073_344),
    ("resnet_50", {"num_classes": 1000, "stem": "imagenet", "image_size": 224}, 4_089_184_256),
    ("ghostnet_050", IMAGENET, 42_328_152),
    ("ghostnet_100", IMAGENET, 141_150_512),
    ("ghostnet_130", IMAGENET, 227_003_256),
    ("convnext_atto", IMAGENET, 547_332_480),
    ("convnext_femto", IMAGENET, 779_629_824),
    ("convnext_pico", IMAGENET, 1_367_055_360),
    ("convnext_nano", IMAGENET, 2_445_528_320),
    ("convnext_tiny", IMAGENET, 4_455_531_264),
    ("segnext_mscan_tiny", IMAGENET, 887_712_640),
    ("segnext_mscan_small", IMAGENET, 2_560_591_872),
    ("segnext_mscan_base", IMAGENET, 5_082_111_488),
    ("lsknet_tiny", IMAGENET, 892_129_304),
    ("lsknet_small", IMAGENET, 2_575_648_200),
    ("cspresnet50", IMAGENET, 3_458_752_512),
    ("cspresnext50", IMAGENET, 3_074_424_832),
    ("cspdarknet53", IMAGENET, 5_002_567_680),
    ("resnest14d", IMAGENET, 2_749_405_184),
    ("resnest26d", IMAGENET, 3_623_391_232),
    ("resnest50d", IMAGENET, 5_371_160_576),
    ("coatnet_0", IMAGENET, 4_141_888_512),
    ("hornet_tiny", IMAGENET, 3_968_389_312),
    ("hornet_tiny_gf", {"num_classes": 1000}, 3_888_705_120),
    ("hornet_small", IMAGENET, 8_813_970_720),
    ("hornet_small_gf", {"num_classes": 1000}, 8_694_444_432),
    ("patch_lstm", {"image_size": 8}, 37_929_984),
]


# In the quick suite one network of each layout; the others have its strides.
QUICK = ONE_A_KIND | {"resnet_18", "ghostnet_050", "segnext_mscan_tiny", "lsknet_tiny", "cspresnext50", "cspdarknet53"}
QUICK |= {"convnext_atto", "coatnet_0", "hornet_tiny_gf", "mlp_mixer_s16", "resnest14d", "vit_tiny_16"}
MULTIPLY_ADDS += [(name, arguments, macs) for name, arguments, _, macs in COUNTS if macs is not None]


def test_every_name_is_in_the_table():
    counted = {name for name, *_ in COUNTS}
    for name in cifarblocks.list_models():
        assert name in counted, f"{name} has no row in COUNTS of tests/models/test_counts.py"
    assert counted <= set(cifarblocks.list_models())


@pytest.mark.parametrize(("name", "arguments", "count"), [row[:3] for row in COUNTS])
def test_parameters(name, arguments, count):
    assert sum(p.numel() for p in on_meta(name, **arguments).parameters()) == count


@pytest.mark.parametrize(("name", "arguments", "count"), [r if r[0] in QUICK else slow(*r) for r in MULTIPLY_ADDS])
def test_multiply_adds(name, arguments, count):
    assert cifarblocks.count_macs(on_meta(name, **arguments)) == count
