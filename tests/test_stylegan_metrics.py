"""Fidelity metrics: each against a plain formulation, then as the scripts compute them."""

import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from tiny_model import save_tiny_model
from tiny_snapshot import make_images, save_snapshot_of

import stylegan_distances as distances
import stylegan_measuring
from calc_metrics import main
from stylegan_errors import StyleganError
from stylegan_features import (
    INCEPTION,
    LPIPS_LAYERS,
    Detector,
    MetricUnavailable,
    encoder_detector,
    inception_detector,
    load_vgg16,
    lpips_of,
)
from stylegan_inception import inception_2015, inception_input
from stylegan_metrics import METRICS, TABLE, check_metric_names, compute_metric
from stylegan_official import load_networks

CPU = torch.device("cpu")


def sums_of(features, pieces=1):
    sums = distances.FeatureSums(features.shape[1])
    for part in features.tensor_split(pieces):
        sums.add(part)
    return sums


# ---------------------------------------------------------------------------------------------- distances


def test_sums_of_batches_give_the_mean_and_covariance_of_all():
    features = torch.from_numpy(np.random.default_rng(0).normal(5, 2, (40, 6)).astype(np.float32))
    mean, covariance = sums_of(features, 7).mean_and_covariance()
    np.testing.assert_allclose(mean, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.double().numpy().T), rtol=1e-9)


def test_the_frechet_distance_of_gaussians_with_common_axes():
    axes = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    a, b = torch.tensor([4.0, 1, 9, 0, 2]).double(), torch.tensor([1.0, 1, 4, 3, 0]).double()
    shift = torch.arange(5).double()
    found = distances.frechet_distance(shift, axes * a @ axes.T, torch.zeros(5).double(), axes * b @ axes.T)
    assert found == pytest.approx(float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)


def test_the_frechet_distance_equals_that_by_a_matrix_root():
    random = np.random.default_rng(1)
    a, b = (torch.from_numpy(random.normal(size=(60, 8)) @ random.normal(size=(8, 8)) + k) for k in (0, 0.3))
    (m1, s1), (m2, s2) = (sums_of(x).mean_and_covariance() for x in (a, b))
    root = scipy.linalg.sqrtm(s1.numpy() @ s2.numpy()).real
    plain = float((m1 - m2).square().sum()) + np.trace(s1.numpy() + s2.numpy() - 2 * root)
    assert distances.frechet_distance(m1, s1, m2, s2) == pytest.approx(plain, rel=1e-8)


def test_fewer_images_than_features_are_at_no_distance_from_themselves():
    features = torch.randn(5, 30, generator=torch.Generator().manual_seed(2))
    found = sums_of(features).mean_and_covariance()
    assert distances.frechet_distance(*found, *found) < 1e-6


def test_features_that_are_not_finite_or_too_few_have_no_moments():
    for features in (torch.full((4, 3), torch.nan), torch.ones(1, 3)):
        with pytest.raises(ValueError, match=r"not finite|at least 2"):
            sums_of(features).mean_and_covariance()


def test_the_kernel_distance_equals_a_sum_over_pairs():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(6, 4)), random.normal(0.5, 1, size=(6, 4))

    def k(a, b):
        return (a @ b / 4 + 1) ** 3

    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(6) for j in range(6) if i != j) / 30
    across = sum(k(x[i], y[j]) for i in range(6) for j in range(6)) / 36
    found = distances.squared_mmd(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(within - 2 * across, rel=1e-10)
    pairs = [iter([torch.from_numpy(x)] * 2), iter([torch.from_numpy(y)] * 2)]
    assert distances.kernel_distance(*pairs) == pytest.approx(found, rel=1e-12)


def test_draws_are_without_replacement_and_follow_the_seed():
    found = distances.draws(20, 8, 5, seed=1)
    assert found.shape == (5, 8)
    assert all(len(row.unique()) == 8 for row in found)
    assert torch.equal(found, distances.draws(20, 8, 5, seed=1))
    assert not torch.equal(found, distances.draws(20, 8, 5, seed=2))


def test_precision_and_recall_equal_a_look_at_every_ball(monkeypatch):
    monkeypatch.setattr(distances, "ROWS_AT_ONCE", 7)
    random = np.random.default_rng(4)
    reals, fakes = random.normal(size=(25, 3)) + 100, random.normal(0.8, 0.6, size=(18, 3)) + 100

    def share(probes, manifold):
        balls = [(c, sorted(np.linalg.norm(manifold - c, axis=1))[3]) for c in manifold]
        return np.mean([any(np.linalg.norm(p - c) <= r for c, r in balls) for p in probes])

    found = distances.precision_and_recall(*(torch.from_numpy(x).float() for x in (reals, fakes)))
    assert found == pytest.approx((share(fakes, reals), share(reals, fakes)), abs=1e-9)
    assert 0 < found[1] < found[0] < 1
    with pytest.raises(ValueError, match="more than 3"):
        distances.precision_and_recall(torch.zeros(3, 2), torch.zeros(9, 2))


def test_the_inception_score_of_sure_and_even_classes_is_their_number():
    assert distances.inception_score(torch.eye(4).repeat(10, 1)) == pytest.approx((4, 0), abs=1e-6)
    p = torch.softmax(torch.randn(20, 5, generator=torch.Generator().manual_seed(5)), 1).double().numpy()
    parts = [np.exp(np.mean([(q * np.log(q / s.mean(0))).sum() for q in s])) for s in np.split(p, 10)]
    assert distances.inception_score(torch.from_numpy(p)) == pytest.approx((np.mean(parts), np.std(parts)))


def test_path_lengths_beyond_the_outermost_hundredths_are_left_out():
    values = np.random.default_rng(6).exponential(size=537)
    low, high = np.percentile(values, 1, method="lower"), np.percentile(values, 99, method="higher")
    plain = values[(values >= low) & (values <= high)].mean()
    assert distances.trimmed_mean(torch.from_numpy(values)) == pytest.approx(plain, rel=1e-12)


# ---------------------------------------------------------------------------------------------- features


def test_images_are_resized_as_tensorflow_1_does():
    images = torch.randint(0, 256, (1, 3, 20, 13), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    found = inception_input(images)
    assert found.shape == (1, 3, 299, 299)
    for row, col in ((0, 0), (298, 298), (150, 17), (291, 200)):
        y, x = row * 20 / 299, col * 13 / 299
        i, j = int(y), int(x)
        below, right = min(i + 1, 19), min(j + 1, 12)
        corners = images[0, :, [i, i, below, below], [j, right, j, right]].double().numpy()  # (3, 4)
        shares = np.outer([1 - y + i, y - i], [1 - x + j, x - j]).flatten()
        np.testing.assert_allclose(found[0, :, row, col], (corners @ shares - 128) / 128, atol=2e-5)


@pytest.mark.slow
def test_inception_equals_the_one_of_the_other_stages(tmp_path):
    """The two were written apart from each other; with drawn weights any difference shows."""
    from safetensors.torch import save_file

    from aras.inception import features_2015
    from aras.inception import inception_2015 as other_2015

    torch.manual_seed(0)
    state = inception_2015().state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    save_file(state, tmp_path / "weights.safetensors")
    other = other_2015()
    other.load_state_dict(state, strict=False)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    detector = inception_detector(tmp_path / "weights.safetensors", CPU)
    with torch.inference_mode():
        found, wanted = detector.features(images), features_2015(other, images.permute(0, 2, 3, 1))
    assert wanted.std() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not detector.canonical
    snapshot = save_snapshot_of(tmp_path / "net.safetensors", path=str(make_images(tmp_path / "images")))
    G, told = load_networks(snapshot).G_ema, {"path": tmp_path / "images"}
    given = {"samples": 12, "inception": tmp_path / "weights.safetensors"}
    assert list(compute_metric("fid50k_full", G, told, CPU, **given)) == ["fd_inception12_full"]
    with pytest.raises(MetricUnavailable, match="classifier"):
        compute_metric("is50k", G, told, CPU, **given)


def test_lpips_is_the_weighted_square_of_differences_of_unit_vectors():
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(1)
    layers = make_layers(cfgs["D"]).requires_grad_(False)
    weights = [torch.rand(channels) for channels in (64, 128, 256, 512, 512)]
    a, b = torch.rand(2, 2, 3, 32, 32) * 255
    with torch.inference_mode():
        found = lpips_of(layers, weights, a, b)
        total = torch.zeros(2, dtype=torch.float64)
        x, y = ((i / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) for i in (a, b))
        x, y = ((i / torch.tensor([0.229, 0.224, 0.225])[:, None, None]) for i in (x, y))
        for number, layer in enumerate(layers[:30]):
            x, y = layer(x), layer(y)
            if number in LPIPS_LAYERS:
                u, v = (i.double() / i.double().norm(dim=1, keepdim=True) for i in (x, y))
                weight = weights[LPIPS_LAYERS.index(number)].double()
                total += torch.einsum("c,nchw->n", weight, (u - v) ** 2) / u[0, 0].numel()
    torch.testing.assert_close(found.double(), total, rtol=1e-4, atol=0)
    assert float(lpips_of(layers, weights, a, a).abs().max()) == 0


def test_features_of_the_encoder_are_those_of_the_other_stages(tmp_path):
    from aras.feature_maps.features import pooled_features
    from aras.segmenter import load_segmenter

    weights = save_tiny_model(tmp_path)
    detector = encoder_detector(weights, CPU)
    images = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = pooled_features(load_segmenter(weights, None, None).encoder, images.permute(0, 2, 3, 1), CPU)
        torch.testing.assert_close(detector.features(images), wanted, rtol=1e-5, atol=1e-5)
    assert detector.width == wanted.shape[1]


def test_what_is_missing_or_another_file_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        MetricUnavailable, match=rf"is not in {tmp_path}/hub/checkpoints; download https://.*--inception"
    ):
        inception_detector(None, CPU)
    with pytest.raises(MetricUnavailable, match=r"vgg16-397923af.pth is not in .*--vgg"):
        load_vgg16(None, CPU)
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(MetricUnavailable, match="does not hold the Inception-v3 of 2015"):
        inception_detector(other, CPU)
    with pytest.raises(MetricUnavailable, match=r"is not vgg16-397923af\.pth"):
        load_vgg16(other, CPU)
    (tmp_path / "torn.pth").write_bytes(other.read_bytes()[:-100])
    with pytest.raises(MetricUnavailable, match="torn"):
        inception_detector(tmp_path / "torn.pth", CPU)
    for weights, told in ((None, "no segmenter is named"), (other, "run.json does not tell")):
        with pytest.raises(MetricUnavailable, match=told):
            encoder_detector(weights, CPU)
    place = tmp_path / "hub" / "checkpoints" / INCEPTION.names[1]
    place.parent.mkdir(parents=True)
    place.write_bytes(other.read_bytes())
    with pytest.raises(MetricUnavailable, match="does not hold"):  # found where another package keeps it
        inception_detector(None, CPU)


# ---------------------------------------------------------------------------------------------- metrics


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A generator, its dataset's options, and for Inception and VGG16 a detector of the mean colour."""

    def mean_colours(given, device):
        features = lambda images: images.float().mean((2, 3))  # noqa: E731
        return Detector("mean", 3, "0", features, probabilities=lambda found: torch.softmax(found / 50, 1))

    for name in ("inception", "vgg"):
        monkeypatch.setitem(stylegan_measuring.DETECTORS, name, mean_colours)
    images = make_images(tmp_path / "images")
    snapshot = save_snapshot_of(tmp_path / "net.safetensors", path=str(images))
    return load_networks(snapshot).G_ema, {"path": images, "mirror": True}


def test_names_are_the_published_ones_only_for_the_published_number_of_images():
    found = {name: (TABLE[name].named(50_000, True), TABLE[name].named(100, True)) for name in METRICS}
    assert all(usual == name for name, (usual, _) in found.items() if name != "fd_encoder")
    assert [found[n][1] for n in ("fid50k_full", "pr50k3", "is50k", "eqr50k", "ppl2_wend")] == [
        "fid100_full",
        "pr100_3",
        "is100",
        "eqr100",
        "ppl2_wend_100",
    ]
    assert TABLE["pr50k3_full"].named(10_000, True) == "pr10k3_full"
    assert TABLE["kid50k"].named(50_000, False) == "kd_inception50k"
    with pytest.raises(StyleganError, match=r"can only contain the following values:\nfid50k_full\n[^,]*\nnot fid1"):
        check_metric_names(["fid50k", "fid1"])


def test_metrics_are_the_distances_of_the_images_drawn_and_the_real_ones(tiny):
    G, told = tiny
    real = torch.stack(list(real_means(told["path"])))

    def metric(name, **options):
        return compute_metric(name, G, told, CPU, samples=14, batch=4, **options)

    job = stylegan_measuring.Job(G, None, None, 14, CPU, 0, 1, 4)
    with torch.no_grad():
        kept = torch.cat([images.float().mean((2, 3)) for _, images in job.fakes()])
    assert kept.shape == (14, 3)
    moments = [sums_of(x).mean_and_covariance() for x in (real, kept)]
    assert metric("fid50k_full")["fid14_full"] == pytest.approx(distances.frechet_distance(*moments[0], *moments[1]))
    found = metric("pr50k3_full")
    assert tuple(found) == ("pr14_3_full_precision", "pr14_3_full_recall")
    assert tuple(found.values()) == pytest.approx(distances.precision_and_recall(real, kept))
    # with no more images than are drawn, every subset is the whole set
    assert metric("kid50k_full")["kid14_full"] == pytest.approx(kid_of_all(real, kept), rel=1e-5)
    chances = torch.softmax(kept / 50, 1)
    assert metric("is50k")["is14_mean"] == pytest.approx(distances.inception_score(chances)[0])


def real_means(folder):
    from PIL import Image

    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            yield torch.from_numpy(np.asarray(image).astype(np.float32).mean((0, 1)))


def kid_of_all(real, fake):
    """Return the mean over the subsets: all 12 real images, against 12 of the 14 generated ones."""
    subsets = [fake[draw] for draw in distances.draws(14, 12, distances.KID_SUBSETS, stylegan_measuring.SEED + 1)]
    return np.mean([distances.squared_mmd(subset, real) for subset in subsets])


def test_mirrored_images_count_only_where_the_name_does_not_say_full(tiny):
    G, told = tiny
    for image in told["path"].iterdir():  # the left half black, so that mirror images have other features
        blacken(image)
    stylegan_measuring.DETECTORS["inception"] = lambda given, device: Detector(
        "left", 3, "1", lambda images: images[..., :8].float().mean((2, 3))
    )
    with_mirror = compute_metric("fid50k", G, told, CPU, samples=8, batch=4)["fid8"]
    full = compute_metric("fid50k_full", G, told, CPU, samples=8, batch=4)["fid8_full"]
    without = compute_metric("fid50k", G, told | {"mirror": False}, CPU, samples=8, batch=4)["fid8"]
    assert full == without != pytest.approx(with_mirror, rel=0.05)


def blacken(path):
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[:, :8] = 0
    Image.fromarray(pixels).save(path)


def test_features_of_real_images_are_kept_and_made_again_when_an_image_changes(tiny, tmp_path):
    G, told = tiny
    first = compute_metric("fid50k_full", G, told, CPU, samples=8, batch=4, cache_dir=tmp_path)
    (kept,) = tmp_path.glob("real-mean-sums-*.safetensors")
    before = kept.stat().st_mtime_ns
    assert compute_metric("fid50k_full", G, told, CPU, samples=8, batch=4, cache_dir=tmp_path) == first
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"torn")
    assert compute_metric("fid50k_full", G, told, CPU, samples=8, batch=4, cache_dir=tmp_path) == first
    blacken(told["path"] / "003.png")
    assert compute_metric("fid50k_full", G, told, CPU, samples=8, batch=4, cache_dir=tmp_path) != first
    assert len(list(tmp_path.glob("real-mean-sums-*.safetensors"))) == 2


def test_a_disk_that_keeps_nothing_stops_no_metric(tiny, tmp_path, capsys):
    G, told = tiny
    (tmp_path / "file").write_bytes(b"")
    found = compute_metric("fid50k_full", G, told, CPU, samples=8, cache_dir=tmp_path / "file")
    assert found == compute_metric("fid50k_full", G, told, CPU, samples=8)
    assert "will be computed again" in capsys.readouterr().err


def test_a_metric_leaves_the_training_as_it_was(tiny):
    G, told = tiny
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in G.state_dict().items()}
    compute_metric("fid50k_full", G, told, CPU, samples=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in G.state_dict().items())


def test_too_few_images_are_told(tiny):
    G, told = tiny
    with pytest.raises(MetricUnavailable, match=r"^a covariance needs at least 2"):
        compute_metric("fid50k_full", G, told, CPU, samples=1)


def test_the_encoder_distance_tells_how_many_images_it_took(tmp_path, tiny):
    G, told = tiny
    weights = save_tiny_model(tmp_path)
    found = compute_metric("fd_encoder", G, told, CPU, fd_encoder=weights)
    assert found["fd_encoder_samples"] == 48  # 4 for each real image
    assert found["fd_encoder"] > 0


def test_path_length_is_the_distance_over_the_squared_step(tiny, monkeypatch):
    import stylegan_metrics

    G, told = tiny

    def distance(a, b):
        assert a.shape == b.shape == (len(a), 3, 16, 16)
        return (a - b).square().mean((1, 2, 3)).double()

    monkeypatch.setattr(stylegan_metrics, "perceptual_distance", lambda given, device: distance)
    found = compute_metric("ppl2_wend", G, told, CPU, samples=6, batch=6)["ppl2_wend_6"]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        ws, others = G.mapping(torch.randn(12, 8)).chunk(2)
        ends = ws.double(), ws.double().lerp(others.double(), 1e-4)
        images = [G.double().synthesis(w, noise_seeds=range(6)) for w in ends]
        G.float()
    plain = distance(*((i + 1) * 127.5 for i in images)) / 1e-8
    assert found == pytest.approx(float(distances.trimmed_mean(plain)), rel=0.05)  # a step of 1e-4 in float32


def test_equivariance_is_of_stylegan3_alone_and_leaves_its_input_as_it_was(tmp_path, tiny):
    with pytest.raises(MetricUnavailable, match="this is StyleGAN2"):
        compute_metric("eqt50k_int", *tiny, CPU, samples=4)
    snapshot = save_snapshot_of(tmp_path / "r.safetensors", "stylegan3-r", resolution=32)
    G = load_networks(snapshot).G_ema
    G.synthesis.input.transform[0, 2] = 0.25
    before = G.synthesis.input.transform.clone()
    found = {}
    for name in ("eqt50k_int", "eqt50k_frac", "eqr50k"):
        found |= compute_metric(name, G, {"path": None}, CPU, samples=4)
    assert list(found) == ["eqt4_int", "eqt4_frac", "eqr4"]
    assert all(10 < value < 200 for value in found.values())
    assert torch.equal(G.synthesis.input.transform, before)


# ---------------------------------------------------------------------------------------------- calc_metrics.py


def test_the_script_writes_a_line_beside_the_snapshot_and_tells_what_it_could_not_compute(run, tmp_path):
    images, weights = make_images(tmp_path / "images"), save_tiny_model(tmp_path)
    snapshot = save_snapshot_of(tmp_path / "run" / "network-snapshot-000004.safetensors", path=str(images))
    names = "fd_encoder,eqt50k_int"
    options = ("--network", snapshot, "--metrics", names, "--fd-encoder", weights, "--samples", 9, "--device", "cpu")
    result = run(main, *options, "--verbose", "0")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("Error: eqt50k_int: equivariance is measured on StyleGAN3")
    line = json.loads((snapshot.parent / "metric-fd_encoder.jsonl").read_text())
    assert json.loads(result.output.splitlines()[0]) == line
    assert line["results"]["fd_encoder_samples"] == 9
    assert math.isfinite(line["results"]["fd_encoder"])
    assert line.keys() == {
        *("results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl", "timestamp")
    }
    assert line["snapshot_pkl"] == snapshot.name
    again = run(main, *options, "--verbose", "0", "--data", images)
    assert json.loads(again.output.splitlines()[0])["results"] == line["results"]


def test_a_snapshot_that_tells_no_dataset_needs_one(run, tmp_path):
    snapshot = save_snapshot_of(tmp_path / "net.safetensors")
    result = run(main, "--network", snapshot, "--device", "cpu")
    assert result.exit_code == 1
    assert result.output.strip() == f"Error: {snapshot} does not tell its dataset; name it by --data"
    result = run(main, "--network", snapshot, "--metrics", "fid")
    assert result.exit_code == 1
    assert "Error: --metrics can only contain the following values:" in result.output
    assert run(main, "--network", snapshot, "--metrics", ",").exit_code == 2


@pytest.mark.slow
def test_two_processes_find_what_one_finds(run, tmp_path):
    images, weights = make_images(tmp_path / "images"), save_tiny_model(tmp_path)
    found = []
    for gpus in (1, 2):
        snapshot = save_snapshot_of(tmp_path / str(gpus) / "net.safetensors", path=str(images))
        options = ("--metrics", "fd_encoder", "--fd-encoder", weights, "--batch", 4, "--device", "cpu")
        assert run(main, "--network", snapshot, *options, "--gpus", gpus).exit_code == 0
        line = json.loads((snapshot.parent / "metric-fd_encoder.jsonl").read_text())
        assert line["num_gpus"] == gpus
        found.append(line["results"]["fd_encoder"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    result = run(main, "--network", snapshot, *options, "--gpus", 2, "--samples", 1)  # of which the first alone knows
    assert result.exit_code == 1
    assert "Error: fd_encoder: a covariance needs at least 2 feature vectors" in result.output
