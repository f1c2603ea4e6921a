#!/usr/bin/env bash
# All measurements that need a GPU, on one, within ten minutes: pages, numbers and pictures into a folder.
#
#   bash benchmarks/gpu.sh                                    # into benchmarks/cuda
#   bash benchmarks/gpu.sh --out FOLDER --batch 128           # another folder; DiT-B/2 on a smaller GPU
#   bash benchmarks/gpu.sh --device cpu --tiny --out FOLDER   # a trial of the script, whose numbers mean nothing
#
# PYTHON is the command that is used in place of `uv run python`. A part that fails or takes too long is named at the
# end, and the others are done all the same.
set -uo pipefail
cd "$(dirname "$0")/.."

device=cuda out=benchmarks/cuda batch=256 tiny=() network=dit-base-2 patience=1
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2 && shift 2 ;;
        --out) out=$2 && shift 2 ;;
        --batch) batch=$2 && shift 2 ;;
        --tiny) tiny=(--tiny) network=dit-nano batch=8 patience=4 && shift ;;
        *) echo "unknown option $1: --device, --out, --batch or --tiny" >&2 && exit 2 ;;
    esac
done
read -ra python <<<"${PYTHON:-uv run python}"
mkdir -p "$out"
begin=$SECONDS failed=()

# part NAME SECONDS WORDS…: run a script of benchmarks/, or "flowleap", for at most so long, in a trial four times; its
# output is in NAME.txt
part() {
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    if timeout $((limit * patience)) "${python[@]}" "$@" >"$out/$name.txt" 2>"$out/$name.log"; then
        echo "$name: $((SECONDS - start)) s"
    else
        failed+=("$name") && echo "$name: failed after $((SECONDS - start)) s" && tail -3 "$out/$name.log"
    fi
}
bench() {
    local name=$1 limit=$2 script=$3
    shift 3
    part "$name" "$limit" "benchmarks/$script.py" --device "$device" "${tiny[@]}" --write "$out/$name" "$@"
}

bench dit-b2 220 step_cost --network $network --side 16 --batch "$batch" --precision bf16 --compile --rounds 10 \
    --methods "flow matching;meanflow;esc;esc, guided"
bench step_cost 100 step_cost --rounds 20
bench scaling 60 scaling --rounds 5
bench sampling 60 sampling
bench memory 60 memory
bench drawing 40 drawing
for recipe in esc-b2 meanflow-b2; do
    part "$recipe" 40 -m flowleap train --recipe "$recipe" --dry-run --device "$device"
done

echo "$((SECONDS - begin)) s in all; see $out"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
