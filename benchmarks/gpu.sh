#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command, on a machine that has Python and the project's dependencies:
# the GPU tests, then the GPU benchmarks. What it prints belongs into benchmarks/RESULTS.md with device and versions.
# With SEGTRAIN_DATA it also trains on CamVid; Lightning and transformers are compared where they are installed.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python3 -c "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())"
python3 -m pytest -q -m gpu tests/gpu

for amp in off bf16; do
    python3 benchmarks/criterion.py --device cuda --amp "$amp" --compile
done
python3 benchmarks/step.py --size 512 --batch 8 --amp bf16 --rounds 60
python3 benchmarks/startup.py
python3 benchmarks/cost.py

if [ -n "${SEGTRAIN_DATA:-}" ]; then
    python3 benchmarks/step.py --data camvid --size 352 --batch 8 --amp bf16 --rounds 30
    python3 benchmarks/evaluation.py
    runs=$(mktemp -d)
    for model in "arch: fpn, encoder: resnet18" "arch: deeplabv3plus, encoder: resnet50"; do
        nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader --loop=5 > "$runs/gpu.txt" &
        watching=$!
        python3 tools/train.py --config configs/camvid.yaml --run-dir "$runs/${model//[^a-z0-9]/}" \
            "model={name: smp, $model, encoder_weights: null}" train.epochs=60
        kill "$watching"
        sort "$runs/gpu.txt" | uniq -c
    done
fi
