#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command, on a machine that has Python and the project's dependencies:
# the GPU tests, then the GPU benchmarks. What it prints is Markdown for benchmarks/RESULTS.md, and is left in gpu.md too.
# A part that fails says so, the others go on; the last line names those that failed, and the exit status is theirs.
# With SEGTRAIN_DATA it also trains on CamVid; Lightning and transformers are compared where they are installed.
# DEVICE=cpu bash benchmarks/gpu.sh tries the script itself on small images, without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
small=()
[ "$device" = cpu ] && small=(--shrink 16 --runs 1)
failed=()

part() {  # title, command …
    printf '\n## %s\n\n`%s`\n\n' "$1" "${*:2}"
    "${@:2}" || { echo "FAILED with exit status $?"; failed+=("$1"); }
}

train() {  # configuration of smp
    local runs watching status
    runs=$(mktemp -d)
    nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader --loop=5 > "$runs/gpu.txt" &
    watching=$!
    "$python" tools/train.py --config configs/camvid.yaml --run-dir "$runs/run" \
        "model={name: smp, $1, encoder_weights: null}" train.epochs=60
    status=$?
    kill "$watching" 2> /dev/null
    sort "$runs/gpu.txt" | uniq -c
    return "$status"
}

everything() {
    part device "$python" -c "import torch, triton; print(torch.__version__, torch.version.cuda, triton.__version__, \
torch.cuda.get_device_name() if '$device' == 'cuda' else '$device')"
    part "tests on a GPU" "$python" -m pytest -q -m gpu tests/gpu
    for amp in bf16 off; do
        part "criterion, $amp" "$python" benchmarks/criterion.py --device "$device" --amp "$amp" --compile "${small[@]}"
        part "criterion after upsampling, $amp" \
            "$python" benchmarks/criterion.py --device "$device" --amp "$amp" --upsample "${small[@]}"
        part "criterion, classes last in memory, $amp" \
            "$python" benchmarks/criterion.py --device "$device" --amp "$amp" --channels-last "${small[@]}"
    done
    part "criterion with the host's part" \
        "$python" benchmarks/criterion.py --device "$device" --amp bf16 --clock wall --classes 19 "${small[@]}"
    [ "$device" = cpu ] && return
    part "criterion in a step" "$python" benchmarks/criterion.py --device cuda --amp bf16 --network
    part "step" "$python" benchmarks/step.py --size 512 --batch 8 --amp bf16 --rounds 60
    part "startup" "$python" benchmarks/startup.py
    part "cost" "$python" benchmarks/cost.py
    if [ -n "${SEGTRAIN_DATA:-}" ]; then
        part "step, CamVid" "$python" benchmarks/step.py --data camvid --size 352 --batch 8 --amp bf16 --rounds 30
        part "evaluation" "$python" benchmarks/evaluation.py
        part "training FPN" train "arch: fpn, encoder: resnet18"
        part "training DeepLabV3+" train "arch: deeplabv3plus, encoder: resnet50"
    fi
}

if [ "$device" = cuda ] && ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "no CUDA device that torch can use; DEVICE=cpu tries this script on small images" >&2
    exit 2
fi
everything > >(tee gpu.md) 2>&1
wait $!
echo "failed: ${failed[*]:-nothing}" | tee -a gpu.md
[ "${#failed[@]}" -eq 0 ]
