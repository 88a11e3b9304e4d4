import pytest
import torch

from segtrain.errors import ConfigError
from segtrain.precision import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(False, False, "off"), (True, False, "bf16"), (False, True, "bf16")]
)
def test_auto_is_bf16_on_a_processor_that_multiplies_it(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision("auto", CPU).amp == expected


def test_fp16_on_a_cpu_is_refused_with_what_to_use():
    with pytest.raises(ConfigError, match="use bf16 or off"):
        precision("fp16", CPU)


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16)])
def test_a_forward_pass_computes_in_what_was_asked_for(amp, dtype):
    with precision(amp, CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
