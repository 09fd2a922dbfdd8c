#!/usr/bin/env bash
# All that needs a GPU, in one command without a network and in under nine minutes: builds csrc in place, runs the tests marked gpu, the
# benchmarks `update` and `sample` and compute-sanitizer, and prints which goals were met.
#
#   bash benchmarks/gpu_check.sh [--out DIR] [--wheels DIR] [--python PROGRAM] [--commit NAME] [--dry]
#
# --out     where the results go; by default benchmarks/results/gpu/<device>, to be committed (all but check.log and tests.xml)
# --wheels  a folder of wheels (diffusers, k-diffusion and what they need), unpacked beside the checkout's own path for this run only
# --python  the Python that has torch; by default the first of python3, python and .venv/bin/python whose torch finds a GPU
# --commit  what is measured, where git cannot say it
# --dry     a rehearsal of every part on the CPU, of which no figure means anything
#
# Exit code: 1 if a part failed or a result was wrong (a missed goal of speed is reported and no more), 2 if nothing could run.
set -uo pipefail # and not -e: a part that fails must not lose the results of the others
from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

total=515 # seconds; what is left of nine minutes is for the summary
out="" wheels="" commit="" dry=() pythons=(python3 python .venv/bin/python)
while (($#)); do
    case $1 in
        --out) out=${2:?--out needs a folder} && shift ;;
        --wheels) wheels=${2:?--wheels needs a folder} && shift ;;
        --python) pythons=("${2:?--python needs a program}") && shift ;;
        --commit) commit=${2:?--commit needs a name} && shift ;;
        --dry) dry=(--dry) ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "benchmarks/gpu_check.sh" && exit 2 ;;
    esac
    shift
done

# Paths are the caller's, and this has moved.
[[ -z $out || $out == /* ]] || out=$from/$out
[[ -z $wheels || $wheels == /* ]] || wheels=$from/$wheels
[[ ${pythons[0]} != */* || ${pythons[0]} == /* ]] || pythons=("$from/${pythons[0]}")

# Each of these would change what runs or how fast.
unset TRITON_INTERPRET CUDA_LAUNCH_BLOCKING PYTORCH_NO_CUDA_MEMORY_CACHING
export PYTHONUNBUFFERED=1
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT

if [[ -n $wheels ]]; then
    unzipper=$(command -v python3 || command -v python || echo "${pythons[0]}")
    for wheel in "$wheels"/*.whl; do
        "$unzipper" -m zipfile -e "$wheel" "$scratch/site" || printf 'cannot unpack %s\n' "$wheel"
    done
    export PYTHONPATH="$scratch/site${PYTHONPATH:+:$PYTHONPATH}"
fi

# The first Python whose torch finds a GPU, and the name of that GPU.
ask='import re, sys, torch
if not torch.cuda.is_available(): sys.exit(3)
print(re.sub("[^A-Za-z0-9._-]+", "-", torch.cuda.get_device_name()))'
((${#dry[@]})) && ask='import torch; print("rehearsal")'
python="" device=""
for candidate in "${pythons[@]}"; do
    if command -v "$candidate" >/dev/null && device=$("$candidate" -c "$ask" 2>>"$scratch/asked"); then
        python=$candidate
        break
    fi
done
if [[ -z $python ]]; then
    cat "$scratch/asked"
    printf 'no torch that finds a GPU in: %s\n' "${pythons[*]}"
    exit 2
fi
out=${out:-benchmarks/results/gpu/$device}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
rm -f "$out"/{update,sample,check}.json "$out"/{update,sample}.png "$out/tests.xml"
log=$out/check.log
: >"$log" || exit 2
printf '%s on %s, results in %s\n' "$python" "$device" "$out"
command -v nvidia-smi >/dev/null && timeout 20 nvidia-smi >>"$log" 2>&1

parts=() code=0
# part NAME SECONDS COMMAND...: never longer than SECONDS, nor than the whole has left. Into a file and not through a pipe, which a
# process left behind would hold open.
part() {
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    ((limit > total - SECONDS)) && limit=$((total - SECONDS))
    printf '\n== %s, at most %d s\n' "$name" "$limit" | tee -a "$log"
    if ((limit < 5)); then
        code=124
    else
        timeout --signal=INT --kill-after=10 "$limit" "$@" </dev/null >"$scratch/part" 2>&1
        code=$?
        cat "$scratch/part" >>"$log"
        tail -n 12 "$scratch/part" | cut -c -200
    fi
    parts+=(--part "$name" "$code" "$((SECONDS - start))")
}

# What a part may take of the time that is left, so much being kept for those after it.
share() {
    local most=$1 kept=$2 left=$((total - SECONDS - $2))
    echo $((left < 20 ? 20 : left < most ? left : most))
}

said=()
if ((!${#dry[@]})); then
    if [[ -z ${CUDA_HOME:-} ]] && ! command -v nvcc >/dev/null; then # on no path, but where it usually lies
        for nvcc in /usr/local/cuda{,-*}/bin/nvcc; do
            [[ -x $nvcc ]] && export CUDA_HOME=${nvcc%/bin/nvcc} && break
        done
    fi
    part build "$(share 120 330)" "$python" setup.py build_ext --inplace
    compgen -G 'fastsolve/_cuda.*.so' >/dev/null || said+=(--said build "without the CUDA kernels: see check.log")
fi

# -W default: what other libraries warn of on a machine that nobody has seen yet is no failure of these tests.
tests=("$python" -m pytest -m gpu -v -p no:cacheprovider -W default --continue-on-collection-errors "--junitxml=$out/tests.xml")
if ((${#dry[@]})); then
    tests+=(tests/test_gpu.py)
else
    # A file to a process: most of the time goes into compiling kernels.
    "$python" -c 'import xdist' 2>/dev/null && tests+=(-n 4 --dist loadfile)
    mapfile -t files < <(grep -lE 'mark\.gpu' tests/test_*.py)
    tests+=("${files[@]}")
fi
part tests "$(share 160 260)" "${tests[@]}"

limit=$(share 120 175)
part update "$limit" "$python" -m benchmarks.update --out "$out" --budget $((limit - 15)) --commit "$commit" "${dry[@]}"

limit=$(share 210 55)
part sample "$limit" "$python" -m benchmarks.sample --out "$out" --budget $((limit - 25)) --commit "$commit" "${dry[@]}"

sanitizer=$(command -v compute-sanitizer || ls {"${CUDA_HOME:-/usr/local/cuda}",/usr/local/cuda*}/{bin,compute-sanitizer}/compute-sanitizer 2>/dev/null | head -n 1)
if ((${#dry[@]})) || [[ -z $sanitizer ]]; then
    said+=(--said sanitizer "not run: a rehearsal, or no compute-sanitizer here")
else
    limit=$(share 70 5)
    # Without torch's cache each tensor is an allocation of its own, whose ends are guarded. Calls of CUDA that fail are their callers'
    # to report, as ours do: torch makes some only to see whether they fail.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 part sanitizer "$limit" "$sanitizer" --tool memcheck --target-processes application-only \
        --report-api-errors no --error-exitcode 77 "$python" -m benchmarks.update --check-only --executors cuda fused \
        --out "$scratch" --budget $((limit - 30))
    if ((code != 0)) && { ((code == 124 || code == 130 || code == 137)) || ! grep -q 'ERROR SUMMARY' "$scratch/part" ||
        grep -q 'Device not supported' "$scratch/part"; }; then
        said+=(--said sanitizer "could not run here or was stopped (exit code $code): see check.log")
        parts[-2]=0
    else
        said+=(--said sanitizer "$(grep -hE '^[0-9]+ of [0-9]+ updates|ERROR SUMMARY' "$scratch/part" | tail -n 2 | paste -sd' ')")
    fi
fi

"$python" -m benchmarks.gpu_goals --out "$out" "${parts[@]}" "${said[@]}" 2>&1 | tee "$scratch/goals"
code=${PIPESTATUS[0]}
cat "$scratch/goals" >>"$log"
printf '%d s in all; results in %s\n' "$SECONDS" "$out"
exit "$code"
