#!/bin/sh
# Trains the models of wavedil/models again, in the root of the repository: sh recipes/make_models.sh [NAME...]
# Prints the figures of their cards, in single and in half precision. Takes 5 to 40 minutes on 2 cores.
set -e

make() { # NAME RECIPE DATA OPTIONS...
    name=$1 recipe=$2 data=$3
    shift 3
    wavedil train -c "$recipe" --out "runs/models/$name" --trainer.max_steps 1500 "$@"
    wavedil convert "runs/models/$name" "runs/models/$name/half" --half
    for model in model half; do
        wavedil evaluate "runs/models/$name/$model" "runs/models/$name/$data" --held-out
    done
    cp "runs/models/$name/half/config.json" "runs/models/$name/half/model.safetensors" "wavedil/models/$name/"
}

for name in ${*:-pluck overdrive shapes}; do
    case $name in
        pluck) make pluck pluck data --trainer.val_check_interval 500 ;;
        overdrive) make overdrive amp data/table.csv ;;
        shapes) make shapes tiny data ;;
        *) echo "unknown model: $name" >&2 && exit 2 ;;
    esac
done
