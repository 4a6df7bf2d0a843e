#!/usr/bin/env bash
# The whole paper, from raw tiles to its tables: plain commands in the order of the stages, on a machine with a GPU.
#
#   bash runs/paper.sh                  run all lines; run again, it goes on with what is not done
#   bash runs/paper.sh --list           number, stage, state, cost and command of each line
#   bash runs/paper.sh --only 7         run line 7
#   bash runs/paper.sh --stage real     run the lines of a stage
#   bash runs/paper.sh --slurm | bash   submit all that is not done to SLURM: an array job for each stage, each waiting for
#                                       those whose outputs it reads, with the PAPER_ settings of now.
#                                       SBATCH_PARTITION and the like choose where.
#                                       By hand: sbatch --array=7-12 --gpus=1 runs/paper.sbatch
#
# A line that fails stops only the lines of stages that read what it writes; all that failed is named at the end, and the
# exit code is 1. A line is done when its file below $PAPER_OUT/done is newer than those of the stages it reads from; delete
# the file to run it again. A line that is not done goes on where it was cut off, as each script does.
#
#   PAPER_DATA=ARAS400k PAPER_OUT=paper PAPER_RAW=.    where the dataset, all else, and the raw tiles lie
#   PAPER_SOURCE=tiles|published                       published takes the published dataset instead of making one: its
#                                                      splits are what the paper's scores are of
#   PAPER_SEEDS="0 1 2" PAPER_ARCHS="Segformer ..." PAPER_SYNTH=300000 PAPER_SUBSET=100000
#   PAPER_TRAIN="--workers 8"                          more options for a script, here segmentation_train.py; likewise
#                                                      PAPER_DOWNLOAD, _CREATE, _CONDITIONAL, _STYLEGAN, _DRAW, _LABEL,
#                                                      _SELECT, _FIDELITY, _MAPS, _CAPTION and _CAPTION_METRICS
#   PYTHON=.venv/bin/python
#
# Costs. HOURS ARE ESTIMATES for one H100 and the published numbers of images; none was measured. Training: FLOPs counted
# (74 GFLOP an image, the mean of the six models on efficientnet-b7; 198 for the conditional GAN, 404 for StyleGAN2) at an
# assumed 20 TFLOP/s for EfficientNets and 40 for GANs, all 20 epochs without an early stop. Captions: an assumed 30 ms a
# token of a batch, 100 tokens. Together about 700 hours; the paper gives about 3,000 for all of its work. From tiles there
# can be three times as many real images as published, and as many more hours on them. Disk: about 300 GB, 85 of them raw
# tiles, 110 last.pt and best.pt of the trainings.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
[ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 404 ] || { echo "runs/paper.sh needs bash 4.4 or newer, this is $BASH_VERSION" >&2 && exit 1; }

python=${PYTHON:-.venv/bin/python}
out=${PAPER_OUT:-paper}
raw=${PAPER_RAW:-.}
source=${PAPER_SOURCE:-tiles}
data=${PAPER_DATA:-ARAS400k}
[ "$source" = published ] && data=$raw/ARAS400k
read -ra seeds <<< "${PAPER_SEEDS:-0 1 2}"
read -ra archs <<< "${PAPER_ARCHS:-Segformer Unet UnetPlusPlus PAN DeepLabV3Plus FPN}"
synth=${PAPER_SYNTH:-300000}
subset=${PAPER_SUBSET:-100000}
for name in DOWNLOAD CREATE TRAIN CONDITIONAL STYLEGAN DRAW LABEL SELECT FIDELITY MAPS CAPTION CAPTION_METRICS; do
    option=PAPER_$name
    read -ra "${name,,}_options" <<< "${!option:-}"
done

# ------------------------------------------------------------------------------------------------------------ machinery

usage() { echo "usage: bash runs/paper.sh [--list | --only N | --stage NAME | --slurm]" >&2 && exit 2; }
mode=run chosen=
case ${1:-} in
    "") ;;
    --list | --slurm) mode=${1#--} && [ $# = 1 ] || usage ;;
    --only | --stage) mode=${1#--} chosen=${2:-} && [ $# = 2 ] && [ -n "$chosen" ] || usage ;;
    *) usage ;;
esac
case $source in tiles | published) ;; *) echo "PAPER_SOURCE is tiles or published, not '$source'" >&2 && exit 2 ;; esac
[ "$mode" != only ] || [[ $chosen =~ ^[0-9]+$ ]] || usage
case $mode in
    slurm)
        printf 'set -e\ncd %q\n' "$PWD"
        for name in "${!PAPER_@}" PYTHON; do # the bash that submits, and by it the tasks, need not have them
            [ -z "${!name+set}" ] || printf 'export %s=%q\n' "$name" "${!name}"
        done
        ;;
    list) ;;
    *) command -v "$python" > /dev/null || { echo "there is no $python: run make demo, or set PYTHON" >&2 && exit 2; } ;;
esac
trap 'exit 130' INT
trap 'exit 143' TERM

number=0 stage="" kind="" needs="" after="" matched=0
failed=() # what is told at the end
declare -A broken pending waiting

# stage NAME gpu|cpu NEEDS AFTER: what follows reads what the stages NEEDS write, and waits for AFTER if they run at all.
stage() {
    [ "$mode" = slurm ] && submit
    stage=$1 kind=$2 needs=${3:-} after=${4:-}
    numbers=()
}

# line COST COMMAND...: a command that goes on where it was cut off.
line() {
    local cost=$1 command mark state
    shift
    number=$((number + 1))
    case $mode in
        only) [ "$chosen" -eq $number ] || return 0 ;;
        stage) [ "$chosen" = "$stage" ] || return 0 ;;
    esac
    command=$(printf '%q ' "$@")
    mark=$out/done/$stage/$(cksum <<< "$command" | tr -d ' \n')
    case $mode in
        list | slurm)
            state=done
            is_done "$mark" || { state=- pending[$stage]=1 && numbers+=($number); }
            [ "$mode" = slurm ] || printf '%d\t%s\t%s\t%s\t%s\n' $number "$stage" $state "estimate: $cost" "$command"
            ;;
        *) run "$mark" "$cost" "$command" "$@" ;;
    esac
}

# is_done MARK: whether the line has ended well, and nothing that it reads was made since or is still to be made.
is_done() {
    local read
    [ -e "$1" ] || return 1
    for read in $needs $after; do
        [ -z "${pending[$read]:-}" ] || return 1
        [ ! -d "$out/done/$read" ] || [ -z "$(find "$out/done/$read" -type f -newer "$1" -print -quit)" ] || return 1
    done
}

run() {
    local mark=$1 cost=$2 command=$3 read
    shift 3
    matched=$((matched + 1))
    for read in $needs; do
        if [ -n "${broken[$read]:-}" ]; then
            broken[$stage]=1
            failed+=("$number ($stage) was not run, as $read failed: $command")
            return
        fi
    done
    is_done "$mark" && echo "== $number $stage: done before" && return
    printf '\n== %d %s (estimate: %s)\n   %s\n' $number "$stage" "$cost" "$command"
    local began=$SECONDS
    if ! { "$@" && mkdir -p "${mark%/*}" && printf '%s\n%d s\n' "$command" $((SECONDS - began)) > "$mark"; }; then
        broken[$stage]=1
        failed+=("$number ($stage) failed: $command")
    fi
}

# submit: print the command that submits the lines of the last stage that are not done.
submit() {
    [ -n "$stage" ] && [ ${#numbers[@]} -gt 0 ] || return 0
    local read ok="" any=""
    for read in $needs; do [ -z "${waiting[$read]:-}" ] || ok+=":\$$read"; done
    for read in $after; do [ -z "${waiting[$read]:-}" ] || any+=":\$$read"; done
    printf '%s=$(sbatch --parsable --job-name=aras-%s --array=%s' "$stage" "$stage" "$(ranges "${numbers[@]}")"
    [ "$kind" = cpu ] || printf ' --gpus=1'
    # When what it needs fails it is cancelled, rather than pending for ever with all that waits for its end.
    [ -z "$ok" ] || printf ' --kill-on-invalid-dep=yes'
    [ -z "$ok$any" ] || printf ' --dependency=%s%s%s' "${ok:+afterok$ok}" "${ok:+${any:+,}}" "${any:+afterany$any}"
    echo ' runs/paper.sbatch)'
    waiting[$stage]=1
}

# ranges NUMBER...: rising numbers as sbatch takes them, such as 3,7-12.
ranges() {
    local told=$1 last=$1 next
    for next in "${@:2}" end; do
        [ "$next" != $((last + 1)) ] || { last=$next && continue; }
        [ "${told##*[,-]}" = "$last" ] || told+=-$last
        [ "$next" = end ] || told+=,$next
        last=$next
    done
    echo "$told"
}

# train NAME ARCH SEED SET...: one training of the grid, on the sets named.
train() {
    local cost=$1 name=$2 arch=$3 seed=$4
    shift 4
    line "$cost" "$python" segmentation_train.py --data "$data" --arch "$arch" --seed "$seed" "$@" \
        --outdir "$out/segmentation/$name/$arch/seed_$seed" "${train_options[@]}"
}

# --------------------------------------------------------------------------------------------------- from tiles to images

segmenter=$out/segmentation/real/Segformer/seed_0

if [ "$source" = published ]; then
    stage dataset cpu
    line "hours of download, 100 GB" "$python" dataset_downloader.py --published --outdir "$raw" "${download_options[@]}"
else
    stage download cpu
    line "hours of download, 85 GB" "$python" dataset_downloader.py --outdir "$raw" "${download_options[@]}"

    stage dataset cpu "download"
    line "0.3 h of 2 cores, 40 GB" "$python" dataset_creator.py --s2 "$raw/S2RGB_2021" \
        --worldcover "$raw/worldcover_2021" --output "$data" "${create_options[@]}"
fi

# It labels what StyleGAN draws, judges the conditional GAN, and is the first training of the table too.
stage segmenter gpu "dataset"
train "1 h, 1 GB" real Segformer 0 --train train

stage conditional gpu "dataset segmenter"
line "4 h, 10 GB" "$python" generative_trainer_unet_spade_gan.py --data "$data" --outdir "$out/spade" \
    --judge "$segmenter/best.pt" "${conditional_options[@]}"

# draw OPTION...: images of the newest snapshot.
draw() {
    local network
    network=$(find "$out/stylegan" -name 'network-snapshot-*.safetensors' | sort | tail -n 1)
    [ -n "$network" ] || { echo "there is no network-snapshot below $out/stylegan: train one first" >&2 && return 1; }
    "$python" stylegan3/gen_images.py --network "$network" "$@"
}

# list_subset FOLDER COUNT: the names of the first images, for segmentation_train.py --only.
list_subset() {
    mkdir -p "$out" && find "$1" -name '*.png' -printf '%f\n' | sort | sed -n "1,$2p" \
        > "$out/synth_subset.txt.part" && mv "$out/synth_subset.txt.part" "$out/synth_subset.txt"
}

if [ "$source" = tiles ]; then
    stage stylegan gpu "dataset"
    line "14 h, 5 GB" "$python" stylegan3/train.py --outdir "$out/stylegan" --cfg stylegan2 --data "$data/train/images" \
        --gpus 1 --batch 256 --gamma 0.01 --mirror 1 --aug ada --kimg 5000 --snap 200 --cbase 16384 --workers 16 \
        --metrics none "${stylegan_options[@]}"

    stage synth gpu "stylegan"
    line "1 h, 35 GB" draw --outdir "$data/synth/images" --count "$synth" --batch 64 "${draw_options[@]}"
fi

stage labels gpu "dataset segmenter synth"
[ "$source" = published ] || # which has masks of its own
    line "0.5 h, 2 GB" "$python" segmentation_predict.py --images "$data/synth/images" --weights "$segmenter/best.pt" \
        "${label_options[@]}"
line "seconds, 1 MB" list_subset "$data/synth/images" "$subset"

if [ "$source" = tiles ]; then # the published masks come without confidences
    stage selection gpu "labels"
    line "1 h, 4 GB" "$python" synthetic_select.py --data "$data" --weights "$segmenter/best.pt" --budget "$subset" \
        --outdir "$out/selection" "${select_options[@]}"
fi

# ------------------------------------------------------------------------- six models x six kinds of training data x seeds

stage real gpu "dataset"
for seed in "${seeds[@]}"; do
    for arch in "${archs[@]}"; do
        [ "$arch $seed" = "Segformer 0" ] || # the segmenter
            train "1.7 h, 1 GB" real "$arch" "$seed" --train train
    done
done

stage synthetic gpu "labels"
for seed in "${seeds[@]}"; do
    for arch in "${archs[@]}"; do
        train "8 h, 1 GB" real_synth "$arch" "$seed" --train train --train synth
        train "6 h, 1 GB" synth "$arch" "$seed" --train synth
        train "2 h, 1 GB" synth_subset "$arch" "$seed" --train synth --only "synth=$out/synth_subset.txt"
    done
done

stage with_conditional gpu "conditional"
for seed in "${seeds[@]}"; do
    for arch in "${archs[@]}"; do
        train "3.3 h, 1 GB" real_conditional "$arch" "$seed" --train train --train generated
    done
done

stage with_both gpu "conditional labels"
for seed in "${seeds[@]}"; do
    for arch in "${archs[@]}"; do
        train "10 h, 1 GB" real_both "$arch" "$seed" --train train --train synth --train generated
    done
done

if [ "$source" = tiles ]; then # not in the paper: a chosen part rather than all
    stage selected gpu "selection"
    for seed in "${seeds[@]}"; do
        train "2.5 h, 1 GB" real_selected Segformer "$seed" --train train --train synth \
            --only "synth=$out/selection/selected.txt"
    done
fi

# ------------------------------------------------------------------------------------------- what the images are, captions

# FID takes its own weights: PAPER_FIDELITY="--features encoder --features inception --features-weights inception=FILE"
stage fidelity gpu "segmenter" "conditional labels"
line "1 h, 1 GB" "$python" synthetic_metrics.py --data "$data" --weights "$segmenter/best.pt" --outdir "$out/fidelity" \
    "${fidelity_options[@]}"

stage maps gpu "segmenter" "conditional labels"
line "1 h, 1 GB" "$python" segformer_vis.py --data "$data" --weights "$segmenter/best.pt" --outdir "$out/feature_maps" \
    "${maps_options[@]}"

# caption SPLIT SHARE: the five streams of a split, whose images are SHARE of all.
caption() {
    local split=$1 share=$2
    line "$share of 10 h" "$python" text_captioner.py --data "$data" --split "$split" \
        --output "$out/captions/${split}_text_qwen3_4b.csv" "${caption_options[@]}"
    line "$share of 33 h" "$python" vision_captioner.py --data "$data" --split "$split" \
        --output "$out/captions/${split}_vision_gemma3_4b.csv" "${caption_options[@]}"
    line "$share of 33 h" "$python" vision_captioner.py --data "$data" --split "$split" --model Qwen/Qwen3-VL-8B-Instruct \
        --output "$out/captions/${split}_vision_qwen3_vl_8b.csv" "${caption_options[@]}"
    line "$share of 10 h" "$python" vision_language_captioner.py --data "$data" --split "$split" \
        --model google/gemma-3-4b-it --output "$out/captions/${split}_vision_language_gemma3_4b.csv" \
        "${caption_options[@]}"
    line "$share of 10 h" "$python" vision_language_captioner.py --data "$data" --split "$split" \
        --output "$out/captions/${split}_vision_language_qwen3_vl_8b.csv" "${caption_options[@]}"
}

stage captions gpu "dataset"
caption test "2.5 %"
caption val "2.5 %"
caption train "20 %"

stage synth_captions gpu "labels"
caption synth "75 %"

# measure_captions OPTION...: all streams that are there.
measure_captions() {
    "$python" caption_metrics.py "$out"/captions/*.csv --data "$data" --output "$out/captions/metrics" "$@"
}

stage caption_metrics gpu "" "captions synth_captions"
line "1 h, 1 GB" measure_captions "${caption_metrics_options[@]}"

# ------------------------------------------------------------------------------------------------------------- the tables

stage tables cpu "" "segmenter real synthetic with_conditional with_both selected fidelity maps caption_metrics"
line "seconds" "$python" results_table.py "$out" --outdir "$out/results"

stage report cpu "" "tables"
line "minutes" "$python" report.py --root "$out" --data "$data" --output "$out/report.html"

stage end cpu # so that the last stage is submitted too
if [ ${#failed[@]} -gt 0 ]; then
    printf '\nNot done:\n' >&2
    printf '   %s\n' "${failed[@]}" >&2
    echo "Mend what the messages above name, then run the same command again." >&2
    exit 1
fi
case $mode in
    only | stage) [ $matched -gt 0 ] || { echo "there is no --$mode $chosen; see --list" >&2 && exit 2; } ;;
    run) printf '\nDone: see %s/results/tables.md and %s/report.html\n' "$out" "$out" ;;
esac
