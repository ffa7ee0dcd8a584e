"""humming, vLLM's NVFP4 kernel up to Hopper, multiplies by what hubconv wrote, and gets it right.

Every family, in every layout, straight from the output folder: experts, dense layers, and weights
that engines fuse, which go into one product under one global scale. The products are compared in
float64 with those of the decoded output, to the accuracy of BF16, and with those of the decoded
source, to the error of NVFP4.

Run on a machine with a CUDA device and humming-kernels: `pytest -m gpu tests/gpu/test_humming.py`.
What it does not show: activations in FP4 (humming needs a Blackwell GPU for them), and a whole
engine around the kernel.
"""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
pytest.importorskip("humming.layer", reason="humming-kernels is not installed")

from checkpoints.broken import read_folder  # noqa: E402
from gpu import humming_layers as humming  # noqa: E402
from profiles import truth  # noqa: E402
from profiles.walks import SERVED, planned, source_folder  # noqa: E402

from hubconv.formats import stored  # noqa: E402
from hubconv.formats.stored import StoredWeight  # noqa: E402
from hubconv.kernels import choose  # noqa: E402
from hubconv.pipeline import Request, convert  # noqa: E402
from hubconv.steps.decide import Recipe  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # humming's own, on import and at its first kernel
]

BF16 = 2**-7
"""Relative error of a product in BF16: one rounding of each result, one within the kernel."""

NVFP4 = 0.12
"""Relative error of Gaussian weights after the search is 0.081; no miniature reaches this."""

FAMILIES = (
    *SERVED,
    "qwen3_moe_fp8",
    "qwen3_moe_bf16",
    "qwen3_fp8",
    "kimi_k2_fp8",
    "kimi_k2_thinking",
    "kimi_k25",
    "glm45_fp8",
    "glm45_bf16",
    "glm5_fp8",
    "minimax_m2",
    "qwen35_moe_bf16",
    "qwen35_moe_fp8",
    "qwen35_bf16",
    "nemotron3_bf16",
    "llama_fp8_rows",
    "llama_fp8_static",
    "mistral_fp8",
    "mixtral_bf16",
    "step35_bf16",
    "step35_fp8",
    "gemma4_bf16",
    "gemma4_moe_bf16",
    "llama4_bf16",
    "qwen3_vl_moe_bf16",
    "qwen3_next_bf16",
    "mimo_v2_flash",
)
EXACT = ("deepseek_v4", "deepseek_v4_sgl_fp8")
"""Born in FP4: the output means what the source means, to the last bit."""

DENSE = (
    "llama_bf16",
    "llama_bf16_tied",
    "qwen3_fp8",
    "qwen35_bf16",
    "llama_fp8_rows",
    "llama_fp8_static",
    "mistral_fp8",
    "gemma4_bf16",
)
EXPERTS = tuple(name for name in FAMILIES if name not in DENSE)
ROWS = {"compressed-tensors": 16, "modelopt": 192}
"""Inputs at a time: few take humming's small kernel, many its Hopper one."""


def layouts(name):
    if name in EXACT:
        return ("modelopt-v4",)
    # Its FP8 with a scale per row stays FP8, which ModelOpt's layout cannot hold.
    return ("compressed-tensors",) if name == "glm45_fp8" else ("compressed-tensors", "modelopt")


def cases(names):
    for name in names:
        for layout in layouts(name):
            yield pytest.param(name, {"layout": layout}, id=f"{name}-{layout}")
            # Everything the profile can make NVFP4, multi-token prediction included.
            wide = {"layout": layout, "policy": "all"}
            if name not in DENSE and name not in EXACT:
                wide |= {"mtp": "nvfp4"}
            if name not in EXACT:
                yield pytest.param(name, wide, id=f"{name}-{layout}-all")
    for name in ("llama_bf16", "qwen3_moe_bf16"):
        if name in names:
            for layout in layouts(name):
                recipe = {"layout": layout, "activations": "w4a4"}
                yield pytest.param(name, recipe, id=f"{name}-{layout}-w4a4")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A source's output folder, made once for every recipe."""
    made = {}

    def make(name, recipe):
        key = (name, *sorted(recipe.items()))
        if key not in made:
            target = tmp_path_factory.mktemp("converted") / "target"
            source = str(source_folder(name))
            done = convert(Request(source, str(target), recipe=Recipe(**recipe), device="cpu"))
            assert done.status == "published"
            made[key] = humming.opened(target, recipe["layout"])
        return made[key]

    return make


def source_weights(name, module, tensors):
    """A module of the source in float64, by other code than the one under test."""
    if name not in EXACT:
        return torch.from_numpy(truth.weights(module, tensors))
    data, scale = tensors[f"{module}.weight"], tensors[f"{module}.scale"]
    raw = torch.frombuffer(bytearray(data.data), dtype=torch.uint8).reshape(data.shape)
    if data.dtype == "F8_E4M3":
        rows, cols = raw.shape
        scales = torch.from_numpy(truth.floats(scale))
        tall = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
        return raw.view(torch.float8_e4m3fn).double() * tall
    exponents = torch.frombuffer(bytearray(scale.data), dtype=torch.uint8).reshape(scale.shape)
    ones = torch.full((raw.shape[0], raw.shape[1] // 8), 0x38, dtype=torch.uint8)
    plain = humming.Weight(raw, ones.view(torch.float8_e4m3fn), torch.ones(()), False, ())
    return plain.decoded() * torch.exp2(exponents.double() - 127).repeat_interleave(32, 1)


def inputs(rows, cols):
    made = torch.Generator(device="cuda").manual_seed(rows * 10_007 + cols)
    return torch.randn((rows, cols), generator=made, device="cuda").to(torch.bfloat16)


def away(found, wanted):
    """Relative error of a product; infinite where it is no number."""
    error = ((found.double() - wanted).norm() / wanted.norm()).item()
    return error if np.isfinite(error) else float("inf")


def errors(found, x, weight, source):
    """The worst part of a product: (against the decoded output, against the decoded source)."""
    exact = x.double() @ weight.decoded().to(x.device).T
    wanted = x.double() @ source.to(x.device).T
    begins = (0, *weight.ends)
    parts = [slice(begin, end) for begin, end in zip(begins, weight.ends, strict=False)]
    return (
        max(away(found[..., part], exact[..., part]) for part in parts),
        max(away(found[..., part], wanted[..., part]) for part in parts),
    )


@pytest.fixture
def say(capsys, request):
    """Writes a line past the capture: the figures are what this file is run for."""

    def line(text):
        with capsys.disabled():
            request.config.get_terminal_writer().line(f"\n{text}")

    return line


def judge(say, name, results):
    """Say the worst of a case and complain of every product that is off."""
    born = EXACT[0] in name
    bound = BF16 if born else NVFP4
    worst = [max(each) for each in zip(*results.values(), strict=True)]
    far = f"worst {worst[0]:.5f} away from the output, {worst[1]:.5f} from the source"
    say(f"{name}: {len(results)} products, {far}")
    return [
        f"{product}: {output:.5f} away from the output, {source:.4f} from the source"
        for product, (output, source) in results.items()
        if not (output <= BF16 and source <= bound)
    ]


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
def test_humming_is_called_as_it_wants_to_be(converted, say, layout):
    """One layer, step by step: if nothing else passes, this says where it stops."""
    import humming as package
    from humming.device import current_device

    machine = f"{torch.cuda.get_device_name()}, sm_{current_device.sm_version}"
    say(f"humming {package.__version__}, torch {torch.__version__}, {machine}")
    folder = converted("llama_bf16", {"layout": layout})
    weight = folder.weight("model.layers.0.mlp.down_proj")
    say(f"{weight.shape} padded to {weight.padded}, factor {weight.factor.item()}")
    say(f"{folder.schema()}")
    x = inputs(16, weight.shape[1])
    found = humming.times(folder, weight, x)
    torch.cuda.synchronize()
    exact = x.double() @ weight.decoded().cuda().T
    ratio = (found.double() / exact).median().item()
    say(f"{tuple(found.shape)}: {away(found, exact):.5f} away, median ratio {ratio:.6f}")
    assert found.shape == exact.shape
    assert away(found, exact) <= BF16
    # BF16 keeps eight bits: a scale wrong by one part in a hundred would show here.
    assert ratio == pytest.approx(1, abs=2**-8)


@pytest.mark.parametrize(("name", "recipe"), list(cases(FAMILIES)))
def test_every_product_of_a_converted_folder_is_right(converted, say, name, recipe):
    folder = converted(name, recipe)
    source = read_folder(source_folder(name))
    plan = planned(source_folder(name), **recipe)
    products = list(folder.products())
    results = {}
    for modules in products:
        weight = folder.weight(*modules)
        x = inputs(ROWS[folder.spelling], weight.shape[1])
        wanted = torch.cat([source_weights(name, module, source) for module in modules])
        results[" + ".join(modules)] = errors(humming.times(folder, weight, x), x, weight, wanted)

    sets = [{member.module for member in each.members} for each in plan.sets.values()]
    assert sorted(map(sorted, sets)) == sorted(sorted(modules) for modules in products)
    assert judge(say, f"{name} {recipe}", results) == []


READ_BY_ITSELF = (
    "model.layers.0.mlp.down_proj",
    "model.layers.1.mlp.gate_proj",
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.k_proj",
    "model.layers.0.self_attn.o_proj",
)


@pytest.mark.parametrize("name", ["llama_bf16", "llama_bf16_tied"])
@pytest.mark.parametrize("module", READ_BY_ITSELF)
def test_humming_reads_the_folder_by_itself(converted, name, module):
    from humming.layer import HummingLayer

    folder = converted(name, {"layout": "compressed-tensors"})
    layer = HummingLayer.from_safetensors(str(folder.path), module, torch_dtype=torch.bfloat16)
    layer = layer.cuda()
    layer.transform()
    weight = folder.weight(module)
    x = inputs(16, weight.shape[1])
    assert away(humming.run(layer, x), x.double() @ weight.decoded().cuda().T) <= BF16


# --- That these tests can fail --------------------------------------------------------------------

JOINED = (
    ("llama_bf16", "model.layers.0.mlp", ("gate_proj", "up_proj")),
    ("llama_bf16", "model.layers.1.self_attn", ("q_proj", "k_proj", "v_proj")),
    ("qwen3_moe_bf16", "model.layers.0.mlp.experts.2", ("gate_proj", "up_proj")),
    ("deepseek_v3", "model.layers.0.self_attn", ("q_a_proj", "kv_a_proj_with_mqa")),
)


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
@pytest.mark.parametrize(("name", "parent", "leaves"), JOINED)
def test_a_joint_scale_that_is_wrong_is_found(converted, say, name, parent, leaves, layout):
    folder = converted(name, {"layout": layout, "policy": "all"})
    source = read_folder(source_folder(name))
    modules = [f"{parent}.{leaf}" for leaf in leaves]
    wanted = torch.cat([source_weights(name, module, source) for module in modules])
    weight = folder.weight(*modules)
    x = inputs(16, weight.shape[1])
    sound = errors(humming.times(folder, weight, x), x, weight, wanted)
    assert judge(say, "sound", {"product": sound}) == []

    wrong = replace(weight, scalar=weight.scalar * 4)
    found = humming.times(folder, wrong, x)
    assert errors(found, x, wrong, wanted)[1] > 0.7
    # Right by its own scale: the kernel is sound, the stored number is not.
    assert errors(found, x, wrong, wanted)[0] <= BF16
    assert len(judge(say, "wrong by 4", {"product": errors(found, x, weight, wanted)})) == 1


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
@pytest.mark.parametrize(("name", "parent", "leaves"), JOINED)
def test_partners_that_do_not_share_a_scale_are_found(converted, say, name, parent, leaves, layout):
    """The last partner encoded under a scale of its own: sound alone, wrong when engines fuse."""
    folder = converted(name, {"layout": layout, "policy": "all"})
    source = read_folder(source_folder(name))
    modules = [f"{parent}.{leaf}" for leaf in leaves]
    weights = [source_weights(name, module, source) for module in modules]
    joint = folder.weight(*modules)

    own = joint.factor.item() * 4
    stray = weights[-1].float().contiguous().numpy()
    window = stored.window(StoredWeight("plain", "F32", *stray.shape), 0, stray.tobytes())
    encoded = choose("cpu").encode(window, own, "search")
    codes = torch.from_numpy(encoded.codes.copy())
    scales = torch.from_numpy(encoded.scales.copy()).view(torch.float8_e4m3fn)
    scalar = torch.full_like(joint.scalar, 1 / own if joint.divides else own)
    alone = humming.Weight(codes, scales, scalar, joint.divides, (len(codes),))
    x = inputs(16, joint.shape[1])
    found = humming.times(folder, alone, x)
    assert judge(say, "alone", {modules[-1]: errors(found, x, alone, weights[-1])}) == []

    begin = joint.ends[-2]
    below = torch.cat([joint.scales[:begin].view(torch.uint8), scales.view(torch.uint8)])
    unjoined = replace(
        joint,
        codes=torch.cat([joint.codes[:begin], codes]),
        scales=below.view(torch.float8_e4m3fn),
    )
    found = humming.times(folder, unjoined, x)
    results = errors(found, x, unjoined, torch.cat(weights))
    assert results[0] <= BF16
    assert len(judge(say, "unjoined", {"product": results})) == 1
    assert results[1] > 0.7


# --- Experts by their own kernel: last, since one that crashes ends the CUDA context for all ------


@pytest.mark.parametrize(("name", "recipe"), list(cases(EXPERTS)))
def test_the_kernel_for_experts_picks_the_right_weights_and_scales(converted, say, name, recipe):
    folder = converted(name, recipe)
    source = read_folder(source_folder(name))
    blocks: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for modules in folder.products():
        if ".experts." in modules[0]:
            stem, _, leaf = modules[0].rpartition(".")
            blocks.setdefault((stem.rpartition(".")[0], leaf), []).append(modules)
    assert blocks

    results = {}
    for (stem, leaf), experts in blocks.items():
        weights = [folder.weight(*modules) for modules in experts]
        x = inputs(24, weights[0].shape[1])
        order = torch.arange(24, device="cuda") % len(weights)
        chosen = torch.stack([order, (order + 1) % len(weights)], 1).int()
        found = humming.times_experts(folder, weights, x, chosen)
        for number, (modules, weight) in enumerate(zip(experts, weights, strict=True)):
            wanted = torch.cat([source_weights(name, module, source) for module in modules])
            mine = chosen == number
            rows = x[:, None].expand(-1, 2, -1)[mine]
            results[f"{stem} {leaf} {number}"] = errors(found[mine], rows, weight, wanted)
    assert judge(say, f"experts of {name} {recipe}", results) == []
