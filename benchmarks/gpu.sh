#!/usr/bin/env bash
# Tests and benchmarks for one GPU, meant to take less than ten minutes. It was never run on a GPU.
#
#   pip install -e '.[test,cuda]' && bash benchmarks/gpu.sh [OUT]
#
# OUT (default: gpu-report) gets a log and a JSON report of every part. A part that fails does not
# stop the others; the exit status is the number of failed parts. With `pip install -e '.[peers]'`
# torch.compile and MONAI are measured, too. ARCHIVE=DIR trains on an archive instead of phantoms.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:-gpu-report}
platform=${PLATFORM:-cuda}      # PLATFORM=cpu and the sizes below make a trial on a CPU.
batches=${BATCHES:-16 64 256}
size=${SIZE:-256}
widths=${WIDTHS:-16 32 64 128 256}
epochs=${EPOCHS:-30}
pairs=${PAIRS:-64}
rounds=${ROUNDS:-7}
tests=${TESTS:-tests/test_models.py tests/test_losses.py tests/test_metrics.py tests/test_surface.py tests/test_augment_warp.py}

mkdir -p "$out"
export JAX_PLATFORMS=$platform XLA_PYTHON_CLIENT_PREALLOCATE=false
failed=0

part() {  # part NAME COMMAND...: runs one part, with a time limit, into a log
    local name=$1 began=$SECONDS status=0
    shift
    timeout "${LIMIT:-400}" "$@" >"$out/$name.log" 2>&1 || status=$?
    echo "$name: status $status, $((SECONDS - began)) s"
    grep -E '^\|| (passed|failed)' "$out/$name.log" || true
    [ "$status" -eq 0 ] || { failed=$((failed + 1)); tail -n 5 "$out/$name.log"; }
}

if ! python -c "import jax; print(jax.__version__, jax.devices())"; then
    echo "error: JAX finds no device for JAX_PLATFORMS=$platform. Install jaxseg with '.[cuda]'." >&2
    exit 2
fi

# XLA_FLAGS: the tests' own flags are for CPUs. Tests compare with float32, which TF32 is not.
# shellcheck disable=SC2086
XLA_FLAGS="" JAX_DEFAULT_MATMUL_PRECISION=highest \
    part tests python -m pytest -n 0 -q -m "not slow" -k "not eight_devices" $tests

for batch in $batches; do
    # shellcheck disable=SC2086
    part "train_step_$batch" python -m benchmarks.train_step --dtype bfloat16 --batch "$batch" \
        --size "$size" --widths $widths --rounds "$rounds" \
        --implementations jaxseg "plain Flax" torch.compile --json "$out/train_step_$batch.json"
done

archive=(--manual-dir "${ARCHIVE:-$out/archive}")
if [ -z "${ARCHIVE:-}" ]; then
    part archive python -c "from jaxseg.data import phantom
phantom.write_archive('$out/archive', images={'COVID': ${IMAGES:-320}})"
fi
# shellcheck disable=SC2086
part baseline python -m experiments.train baseline "${archive[@]}" --data-dir "$out/data" \
    --workdir "$out/run" --input-path device --size "$size" --widths $widths --epochs "$epochs"

part surface python -m benchmarks.surface --pairs "$pairs" --size "$size" --rounds "$rounds" \
    --json "$out/surface.json"
part augment python -m benchmarks.augment --size "$size" --rounds "$rounds" \
    --json "$out/augment.json"

exit "$failed"
