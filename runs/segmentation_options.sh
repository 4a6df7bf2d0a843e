#!/usr/bin/env bash
# What each option of segmentation_train.py does to the scores on the sample region: two or three seeds of each, one table.
# About 45 minutes on two idle CPU cores. Run again it goes on where it was cut off.
#
#   make demo && bash runs/segmentation_options.sh        writes demo/options/<name>/seeds.json and demo/options/table.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
data=demo/ARAS400k
out=demo/options
seeds=0,1,2

train() { # train NAME OPTION... : the demo's recipe with one thing changed
    local name=$1
    shift
    echo "-- $name: $*"
    "$python" segmentation_train.py --data $data --outdir "$out/$name" --seeds $seeds --device cpu --workers 0 \
        --encoder tu-tf_efficientnet_lite0 --encoder-weights demo/encoder/tf_efficientnet_lite0.safetensors \
        --epochs 18 --batch-size 16 --patience 8 "$@"
}

train paper
train loss-dice+ce --loss dice+ce
train loss-focal --loss focal
train loss-lovasz --loss lovasz
train sampling-balanced --sampling balanced
seeds=0,1
train ema --ema 0.99
train tta --tta

# Half of the training patches lose their masks and get predicted ones, as drawn images do.
half=$out/half
if [[ ! -d $half/train ]]; then
    rm -rf $half $half.part && mkdir -p $half.part/{train/images,train/masks,synth/images}
    ln -s ../../ARAS400k/val ../../ARAS400k/test $half.part/
    number=0
    for image in $data/train/images/*.png; do
        name=$(basename "$image")
        if ((number++ % 2)); then
            cp "$image" $half.part/synth/images/
        else
            cp "$image" $half.part/train/images/ && cp "$data/train/masks/$name" $half.part/train/masks/
        fi
    done
    mv $half.part $half
fi
data=$half
train half
"$python" segmentation_predict.py --images $half/synth/images --weights $out/half/seed_0/best.pt --confidence-maps --device cpu
train half+predicted --train train --train synth
train half+predicted-sure --train train --train synth --min-confidence 0.6
train half+predicted-mixed --train train --train synth --mix 2:1
train predicted --train synth
train predicted-then-half --init-weights $out/predicted/seed_0/best.pt

"$python" runs/options_table.py $out/*/seeds.json | tee $out/table.md
