#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command, on a machine that has Python and the project's dependencies:
# the GPU tests, then the GPU benchmarks. What it prints belongs into benchmarks/RESULTS.md with device and versions.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python3 -c "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())"
python3 -m pytest -q -m gpu tests/gpu
for amp in off bf16; do
    python3 benchmarks/criterion.py --device cuda --amp "$amp" --compile
done
