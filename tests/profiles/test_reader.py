"""Profiles: data that is refused when nobody would read it, and chosen by what a source is."""

import pytest
from profiles.walks import SERVED, plan_of

from hubconv.errors import SourceError
from hubconv.profiles import choose_profile, load_profiles
from hubconv.profiles.reader import _profile

SOUND = {
    "title": "A family",
    "layouts": ["compressed-tensors"],
    "readers": ["plain"],
    "roles": [{"role": "mlp", "pattern": "mlp"}],
    "never": [],
    "policies": {"all": ["mlp"]},
    "default_policy": "all",
}


def test_a_profile_with_an_entry_nobody_reads_is_refused():
    assert _profile("x", SOUND).title == "A family"
    with pytest.raises(SourceError, match="nobody reads: layers"):
        _profile("x", SOUND | {"layers": 3})
    with pytest.raises(SourceError, match="nobody reads: int3"):
        _profile("x", SOUND | {"readers": ["int3"]})
    with pytest.raises(SourceError, match="names no role: 'head'"):
        _profile("x", SOUND | {"policies": {"all": ["head"]}})


@pytest.mark.parametrize("profile", load_profiles(), ids=lambda profile: profile.name)
def test_roles_a_profile_speaks_of_are_roles_it_has(profile):
    roles = {role.name for role in profile.roles}

    assert profile.never <= roles
    assert profile.mtp_roles <= roles
    assert all(recode.roles <= roles for recode in profile.recodes)
    assert profile.default_policy in profile.policies
    assert not any(profile.quantized_roles(policy) & profile.never for policy in profile.policies)


@pytest.mark.parametrize("name", SERVED)
def test_every_pattern_of_a_role_serves_some_tensor_or_a_sibling_family(name):
    plan = plan_of(name)
    profile = next(each for each in load_profiles() if each.name == plan.profile)
    names = [tensor.name for job in plan.jobs for tensor in job.reads]

    served = [role for role in profile.roles if any(role.pattern.search(n) for n in names)]

    assert len(served) >= len(profile.roles) - 2


def test_a_family_is_known_by_its_tensors_where_its_type_is_not():
    signature = ["layers.0.attn.wq_a.weight", "layers.0.hc_attn_fn", "layers.0.attn.attn_sink"]

    assert choose_profile({"model_type": "deepseek_ref"}, signature).name == "deepseek_v4"
    assert choose_profile({"model_type": "llama"}, []).name == "dense"


def test_families_apart_are_not_taken_for_plain_ones():
    with pytest.raises(
        SourceError, match=r"'gpt_oss' are not converted: engines .*MXFP4.* no NVFP4"
    ):
        choose_profile({"model_type": "gpt_oss"}, [])
