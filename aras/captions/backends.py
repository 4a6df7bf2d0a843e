"""What writes the local scripts' captions, by `--model` and `--endpoint`: a template, a server or transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aras.captions import template
from aras.captions.command import Description, Kind
from aras.captions.endpoint import Endpoint, check_endpoint, load_endpoint
from aras.captions.loop import Generate
from aras.captions.models import PACKAGES, Decoding, load_model
from aras.captions.sources import Source, describe_model
from aras.captions.template import TEMPLATE
from aras.errors import UserError
from aras.training import choose_device, share_cores, told_device


def decoding_of(options: dict[str, Any]) -> Decoding:
    """Return how tokens are chosen."""
    return Decoding(**{name: options[name] for name in ("max_new_tokens", "temperature", "top_p", "seed")})


def endpoint_of(kind: Kind, options: dict[str, Any]) -> Endpoint:
    """Return the server of `--endpoint`."""
    own = {name: options[name] for name in ("model", "concurrency", "timeout")}
    return Endpoint(options["endpoint"], eyes=kind.image, decoding=decoding_of(options), **own)


def source_of(options: dict[str, Any]) -> Source:
    """Return the model of `--model` and `--revision`."""
    return Source(options["model"], options["revision"])


def describe(kind: Kind, options: dict[str, Any]) -> Description:
    """Return what will write the captions.

    Raises:
        UserError: it is not to be had.
    """
    if options["model"] == TEMPLATE:
        if not kind.percentages:
            raise UserError("--model template writes from percentages, which this captioner does not have; use another")
        if options["endpoint"]:
            raise UserError("--model template needs no server; leave out --endpoint")
        return Description({"model": TEMPLATE})
    chosen = {name: options[name] for name in ("model", "max_new_tokens", "temperature", "top_p")}
    if options["temperature"]:
        chosen["seed"] = options["seed"]
    if options["endpoint"]:
        check_endpoint(endpoint_of(kind, options))
        return Description(chosen | {"revision": "of the server"}, ("openai",), "server")
    if kind.image and Path(options["model"]).suffix == ".gguf":
        raise UserError("--model FILE.gguf has no eyes here; serve it by llama.cpp and name that by --endpoint")
    share_cores()
    device = choose_device(options["device"])
    return Description(chosen | {"revision": describe_model(source_of(options))}, PACKAGES, told_device(device))


def load(kind: Kind, options: dict[str, Any], tell: Callable[[str], None]) -> Generate:
    """Return the captioner that `describe` told of; `tell` takes one line for the user.

    Raises:
        UserError: it cannot be loaded.
    """
    if options["model"] == TEMPLATE:
        return template.generate
    if options["endpoint"]:
        return load_endpoint(endpoint_of(kind, options))
    return load_model(
        source_of(options), kind.image, options["device"], decoding_of(options), options["batch_size"], tell
    )
